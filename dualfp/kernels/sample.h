// Logits to tokens.
//
// For each row, in vLLM's order:
//   1. log-probabilities, if asked for, are taken of the raw logits
//   2. banned tokens   become impossible (min_tokens: EOS and stop ids)
//   3. bias            is added
//   4. penalties       repetition (prompt and output), then frequency and presence (output)
//   5. temperature     below kGreedyTemperature: the most likely token, lowest id first; done
//   6. min_p           drops tokens less likely than min_p times the most likely
//   7. top_k           drops those below the k-th most likely; ties with it stay
//   8. top_p           keeps the fewest most likely whose probability is at least top_p
//   9. one draw by inverse distribution function, from UniformDraw(seed, choice, position)
// A row's token depends on nothing but its logits, its parameters and its state.

#pragma once

#include <cstdint>
#include <span>

#include "dualfp/kernels/context.h"

namespace dualfp {

inline constexpr float kGreedyTemperature = 1e-5f;  // vLLM's threshold

// SampleArgs::tokens of a row that has nothing to draw from: a NaN or infinite logit, or no
// possible token.
inline constexpr int32_t kNoToken = -1;

struct TokenBias {
  int32_t token = 0;
  float bias = 0.0f;
};

// In SampleState::counts: the token is in the prompt. The bits below count it in the output.
inline constexpr int32_t kInPrompt = 1 << 30;

// What rows remember or share beyond numbers, in memory of the op's device.
struct SampleState {
  const int32_t* banned = nullptr;  // [num_banned], while SampleRow::ban
  int64_t num_banned = 0;
  const TokenBias* bias = nullptr;  // [num_bias], distinct tokens
  int64_t num_bias = 0;
  int32_t* counts = nullptr;  // [vocabulary], for penalties; null: none
};

// One draw or one score. Plain data: part of a step's batch, copied with it to a device.
struct SampleRow {
  int32_t logit_row = 0;    // of SampleArgs::logits
  int32_t token = -1;       // given, to be scored only; -1: drawn
  int32_t state = -1;       // of SampleArgs::states; -1: none
  int32_t append_row = -1;  // of SampleArgs::token_ids: joins the state's output first; -1: none
  int32_t draft_row = -1;   // of SampleArgs::token_ids: what this draw was guessed to be; -1: none
  int32_t ban = 0;          // 1: the state's banned tokens cannot be drawn
  int32_t score_begin = 0;  // of SampleArgs::scores: the token's, then the most likely tokens'
  int32_t num_scores = 0;   // 0: none
  uint64_t seed = 0;
  uint64_t position = 0;  // of the drawn token in its output
  uint32_t choice = 0;
  float temperature = 1.0f;  // >= 0
  int64_t top_k = 0;         // 0 or below: all
  float top_p = 1.0f;        // (0, 1]
  float min_p = 0.0f;        // [0, 1]
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  float repetition_penalty = 1.0f;  // > 0
  int32_t padding = 0;              // to a multiple of eight bytes, stated
};

struct ScoredToken {
  int32_t token_id = -1;
  float logprob = 0.0f;
  int32_t rank = 0;  // 1 + number of other tokens at least as likely
};

// On a GPU the spans are of its memory, written by what was enqueued before, and what they hold is
// not checked.
struct SampleArgs {
  ConstTensorView logits;     // F32 [logit_rows, vocabulary]; the last axis is contiguous
  int64_t drawable = 0;       // tokens from here on are scored, but never drawn; 0: all can be
  ConstTensorView token_ids;  // I32 [rows] of the step
  // All appends come before the first draw, so rows of one state agree on it.
  std::span<const SampleRow> rows;
  std::span<const SampleState> states;
  std::span<int32_t> tokens;      // [rows]: drawn, or given; kNoToken
  std::span<ScoredToken> scores;  // as the rows say
};

// Scratch for a vocabulary in context.workspace; one share a thread on the CPU.
int64_t SampleWorkspaceBytes(const Context& context, int64_t vocabulary);

// Throws kInvalidArgument for arguments that disagree.
void Sample(const Context& context, const SampleArgs& args);

}  // namespace dualfp
