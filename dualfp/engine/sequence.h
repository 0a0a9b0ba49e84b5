// A request as the engine holds it, and its choices as sequences of tokens. Internal: owned and
// touched by the engine's thread alone.

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dualfp/engine/block_pool.h"
#include "dualfp/engine/request.h"
#include "dualfp/engine/sampler.h"
#include "dualfp/engine/text_output.h"

namespace dualfp {

struct RequestState;

enum class SequenceState : uint8_t {
  kUnborn,   // choices 1 ... n-1, until the prompt has been computed
  kWaiting,  // new, or preempted
  kRunning,  // holds its blocks
  kFinished,
};

// One choice. Its tokens are the request's prompt and its own output; the first `num_computed` of
// them have their keys and values in `blocks`.
struct Sequence {
  RequestState* request = nullptr;
  int choice = 0;
  SequenceState state = SequenceState::kUnborn;

  std::vector<int32_t> output;
  int64_t num_computed = 0;
  std::vector<int32_t> blocks;  // token p lies in blocks[p / block_size]

  // Set by the scheduler for the step at hand.
  int64_t num_scheduled = 0;
  int32_t copy_source = -1;  // block to copy into blocks.back() before the step

  // Blocks [0, num_keyed) have keys, the last of which is `key`. Of the block that is being filled:
  // the tag of its tokens so far.
  int64_t num_keyed = 0;
  Hash128 key;
  uint64_t open_tag = kMixedPrecisionTag;

  SequenceSampler sampler;
  std::unique_ptr<TextOutput> text;  // null without a vocabulary
  TimePoint last_token_time;

  // New since the last output.
  int64_t num_published = 0;  // tokens
  std::string new_text;
  std::vector<ScoredToken> new_logprobs;  // the token and its tops, for each new token
  FinishReason finish_reason = FinishReason::kNone;
  StopReason stop_reason;

  int64_t num_tokens() const;
  int64_t num_remaining() const { return num_tokens() - num_computed; }
  int32_t Token(int64_t position) const;
};

struct RequestState {
  RequestId id = 0;
  Request request;
  OutputSink sink;
  int64_t completion_limit = 0;  // tokens of a choice
  uint64_t seed = 0;
  std::vector<Sequence> choices;  // request.sampling.n; never resized

  Usage usage;
  RequestTiming timing;
  int num_unfinished = 0;
  bool touched = false;  // has something to publish after this step
  std::string error;

  // The token and its tops, for each prompt token but the first, as far as computed.
  std::vector<ScoredToken> prompt_logprobs;
  bool prompt_logprobs_published = false;

  int64_t prompt_size() const { return static_cast<int64_t>(request.prompt.size()); }
};

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
