// A request as the engine holds it, and its choices as sequences of tokens. Internal: after
// MakeRequestState, touched by the engine's thread alone.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dualfp/engine/block_pool.h"
#include "dualfp/engine/request.h"
#include "dualfp/engine/sampling/text_output.h"
#include "dualfp/engine/vocabulary.h"
#include "dualfp/kernels/sample.h"

namespace dualfp {

struct RequestState;

enum class SequenceState : uint8_t {
  kUnborn,   // choices 1 ... n-1, until the prompt has been computed
  kWaiting,  // new, or preempted
  kRunning,  // holds its blocks
  kFinished,
};

// One choice. Its tokens are the request's prompt and its own output, and those that steps in
// flight will yield; the first `num_computed` of them have, or will have once those steps have run,
// their keys and values in `blocks`.
struct Sequence {
  RequestState* request = nullptr;
  int choice = 0;
  SequenceState state = SequenceState::kUnborn;

  std::vector<int32_t> output;
  int64_t num_computed = 0;
  std::vector<int32_t> blocks;  // token p lies in blocks[p / block_size]

  // While it runs: its place among the running, and whether the runner's sampling state of that
  // place is this sequence's. `residency` counts how often it has taken or lost a place.
  int64_t seat = -1;
  bool has_state = false;
  uint64_t residency = 0;

  // Set by the scheduler for the step at hand.
  int64_t num_scheduled = 0;
  int64_t num_drafts = 0;    // of num_scheduled: guesses of the tokens to come
  int32_t copy_source = -1;  // block to copy before the step; -1: none
  int32_t copy_target = -1;

  // Steps in flight.
  int64_t num_pending = 0;      // tokens that they will yield, of which the host has none
  int32_t pending_sample = -1;  // the newest step's sample that is the last of them
  bool held = false;            // what comes next cannot be planned before they have ended

  // Blocks [0, num_keyed) have keys, the last of which is `key`. Of the block that is being filled:
  // the tag of its tokens so far.
  int64_t num_keyed = 0;
  Hash128 key;
  uint64_t open_tag = kMixedPrecisionTag;

  SampleRow draw;                    // how its tokens are drawn: all that is the same in each step
  std::unique_ptr<TextOutput> text;  // null without a vocabulary
  TimePoint last_token_time;

  // New since the last output.
  bool touched = false;
  int64_t num_published = 0;  // tokens
  std::string new_text;
  std::vector<ScoredToken> new_scores;  // for each new token: itself, and its tops
  FinishReason finish_reason = FinishReason::kNone;
  StopReason stop_reason;

  int64_t num_tokens() const;
  int64_t num_expected() const { return num_tokens() + num_pending; }
  int64_t num_remaining() const { return num_expected() - num_computed; }
  int64_t output_expected() const { return static_cast<int64_t>(output.size()) + num_pending; }
  int32_t Token(int64_t position) const;
};

struct RequestState {
  RequestId id = 0;
  Request request;
  OutputSink sink;
  int64_t completion_limit = 0;   // tokens of a choice
  uint64_t cache_class = 0;       // ModelRunner::CacheClass(max_length())
  std::vector<int32_t> stop_ids;  // EOS, whether ignored or not, and then the request's own
  int64_t num_eos = 0;
  std::vector<TokenBias> bias;
  bool penalties = false;
  bool needs_state = false;       // draws depend on more than numbers: bias, penalties, min_tokens
  std::vector<Sequence> choices;  // request.sampling.n; never resized
  int num_unfinished = 0;
  int parts_in_flight = 0;  // of steps; it lives until there are none

  // Prompt tokens that some choice has had, computed or from the cache: what usage has counted.
  int64_t num_prompt_seen = 0;

  // Scores for a position: the token itself and its tops; 0 where not asked for.
  int scores_per_token = 0;
  int scores_per_prompt_token = 0;
  int64_t num_prompt_scored = 0;  // of the prompt tokens but the first; asked for in some step
  std::vector<ScoredToken> prompt_scores;
  bool prompt_scores_published = false;

  bool touched = false;  // has something to publish after this step
  std::string error;
  Usage usage;
  RequestTiming timing;

  int64_t prompt_size() const { return static_cast<int64_t>(request.prompt.size()); }
  int64_t max_length() const { return prompt_size() + completion_limit; }
};

struct RequestContext {
  int64_t vocab_size = 0;
  int64_t max_model_len = 0;
  int block_size = 0;
  const Vocabulary* vocabulary = nullptr;  // may be null
  std::vector<int32_t> eos_token_ids;
  double default_ttft_target = 0.0;
  double default_tpot_target = 0.0;
  int max_draft_tokens = 0;  // RunnerInfo's
};

// All memory that the request will need, so that its steps need none. `request` has passed
// ValidateRequest; `seed` is for a request without its own. Runs on the caller's thread.
std::unique_ptr<RequestState> MakeRequestState(Request request, OutputSink sink, uint64_t seed,
                                               const RequestContext& context);

// Choices that take their next token from this sequence's logits: itself and, with the prompt's
// last row, those that are not born yet.
inline int NumChoicesDrawn(const Sequence& sequence) {
  const auto& choices = sequence.request->choices;
  const bool leads =
      sequence.choice == 0 && choices.size() > 1 && choices.back().state == SequenceState::kUnborn;
  return leads ? static_cast<int>(choices.size()) : 1;
}

inline int64_t Sequence::num_tokens() const {
  return request->prompt_size() + static_cast<int64_t>(output.size());
}

inline int32_t Sequence::Token(int64_t position) const {
  const int64_t prompt = request->prompt_size();
  return position < prompt ? request->request.prompt[position] : output[position - prompt];
}

// True when `a` runs before `b` and is preempted after it.
inline bool MoreImportant(const Sequence& a, const Sequence& b) {
  if (a.request->request.priority != b.request->request.priority) {
    return a.request->request.priority < b.request->request.priority;
  }
  if (a.request->id != b.request->id) {  // ids are in order of arrival
    return a.request->id < b.request->id;
  }
  return a.choice < b.choice;
}

}  // namespace dualfp
