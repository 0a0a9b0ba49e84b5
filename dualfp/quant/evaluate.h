// Scoring a token sequence with one or several decoders and precision plans: the loss of each
// token, and how far each candidate's next-token distributions are from a reference's.

#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "dualfp/model/decoder.h"

namespace dualfp {

// Tokens [begin, end) are read with an empty cache; those from `scored` on are scored, each with
// the tokens from `begin` on before it.
struct EvaluationWindow {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t scored = 0;
};

// Windows of `context` tokens that advance by `stride`, so that every token but the first is scored
// once, and with at least context - stride tokens before it once a whole window has passed. The
// last window may be shorter. Throws kInvalidArgument unless there are two tokens and
// 1 <= stride <= context, context >= 2; with stride = context, a window's first token is scored by
// nobody.
std::vector<EvaluationWindow> SlidingWindows(int64_t num_tokens, int64_t context, int64_t stride);

struct Subject {
  Decoder* decoder = nullptr;
  const PrecisionPlan* plan = nullptr;
};

// One entry per scored token, in order.
struct TokenScores {
  std::vector<double> loss;      // -log p(token), nats
  std::vector<double> kl;        // KL(reference || this), nats; empty for the reference
  std::vector<double> same_top;  // 1 where the likeliest token is the reference's; likewise
};

// How far one next-token distribution is from another.
struct LogitRowComparison {
  double kl = 0;                  // nats, KL(first || second)
  double largest_difference = 0;  // of any logit
  bool same_top = false;          // the same token is likeliest
};
LogitRowComparison CompareLogitRows(std::span<const float> first, std::span<const float> second);

// Reads every window with every subject, in step, and compares the first subject, the reference,
// with the others. All must have the same vocabulary, else kInvalidArgument. A decoder may serve
// several subjects; its limits bound the steps, and its max_context the windows.
// `progress` gets the scored tokens.
std::vector<TokenScores> Evaluate(const Context& context, DType cache_dtype,
                                  std::span<const int32_t> tokens,
                                  std::span<const EvaluationWindow> windows,
                                  std::span<const Subject> subjects,
                                  const std::function<void(int64_t done)>& progress = nullptr);

}  // namespace dualfp
