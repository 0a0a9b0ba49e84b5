// What a request must satisfy to be accepted. Checked on the caller's thread, before the queue.

#pragma once

#include <cstdint>
#include <string>

#include "dualfp/engine/request.h"

namespace dualfp {

struct RequestLimits {
  int64_t vocab_size = 0;
  int64_t max_model_len = 0;  // prompt and completion together
  int64_t max_kv_tokens = 0;  // what all KV blocks together hold
  int max_logprobs = 20;
  int max_choices = 128;
  bool has_vocabulary = true;    // stop strings need one
  std::string fp16_unsupported;  // RunnerInfo's reasons
  std::string fp8_unsupported;
};

// Tokens that a choice may have: max_tokens, cut to what the context leaves.
int64_t CompletionLimit(const Request& request, int64_t max_model_len);

// Throws kInvalidArgument or kUnsupported, naming the field, its value and its range.
void ValidateRequest(const Request& request, const RequestLimits& limits);

}  // namespace dualfp
