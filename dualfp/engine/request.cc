#include "dualfp/engine/request.h"

#include <algorithm>
#include <cmath>

#include "dualfp/base/check.h"
#include "dualfp/engine/request_limits.h"
#include "dualfp/tensor/quant_format.h"

namespace dualfp {
namespace {

constexpr auto kInvalid = ErrorCode::kInvalidArgument;

// False for NaN.
bool InRange(double value, double low, double high) { return value >= low && value <= high; }

void CheckToken(int32_t token, int64_t vocab_size, std::string_view field) {
  Check(token >= 0 && token < vocab_size, kInvalid, field, " contains token id ", token,
        ", which is not in the vocabulary of ", vocab_size, " tokens");
}

void ValidateSampling(const SamplingParams& sampling, const RequestLimits& limits) {
  Check(sampling.n >= 1 && sampling.n <= limits.max_choices, kInvalid, "n is ", sampling.n,
        ", expected 1 to ", limits.max_choices);
  Check(!sampling.max_tokens || *sampling.max_tokens >= 1, kInvalid, "max_tokens is ",
        sampling.max_tokens.value_or(0), ", expected at least 1");
  Check(sampling.min_tokens >= 0, kInvalid, "min_tokens is ", sampling.min_tokens,
        ", expected at least 0");
  Check(!sampling.max_tokens || sampling.min_tokens <= *sampling.max_tokens, kInvalid,
        "min_tokens is ", sampling.min_tokens, ", more than max_tokens (",
        sampling.max_tokens.value_or(0), ")");
  Check(std::isfinite(sampling.temperature) && sampling.temperature >= 0.0f, kInvalid,
        "temperature is ", sampling.temperature, ", expected a finite number of at least 0");
  Check(sampling.top_p > 0.0f && sampling.top_p <= 1.0f, kInvalid, "top_p is ", sampling.top_p,
        ", expected a number in (0, 1]");
  Check(sampling.top_k >= -1, kInvalid, "top_k is ", sampling.top_k,
        ", expected -1 or 0 (all) or at least 1");
  Check(InRange(sampling.min_p, 0, 1), kInvalid, "min_p is ", sampling.min_p,
        ", expected a number in [0, 1]");
  Check(InRange(sampling.presence_penalty, -2, 2), kInvalid, "presence_penalty is ",
        sampling.presence_penalty, ", expected a number in [-2, 2]");
  Check(InRange(sampling.frequency_penalty, -2, 2), kInvalid, "frequency_penalty is ",
        sampling.frequency_penalty, ", expected a number in [-2, 2]");
  Check(std::isfinite(sampling.repetition_penalty) && sampling.repetition_penalty > 0.0f, kInvalid,
        "repetition_penalty is ", sampling.repetition_penalty,
        ", expected a finite number greater than 0");

  std::vector<int32_t> biased;
  for (const auto& [token, bias] : sampling.logit_bias) {
    CheckToken(token, limits.vocab_size, "logit_bias");
    Check(InRange(bias, -100, 100), kInvalid, "logit_bias of token ", token, " is ", bias,
          ", expected a number in [-100, 100]");
    biased.push_back(token);
  }
  std::sort(biased.begin(), biased.end());
  Check(std::adjacent_find(biased.begin(), biased.end()) == biased.end(), kInvalid,
        "logit_bias names a token twice");

  for (const int32_t token : sampling.stop_token_ids) {
    CheckToken(token, limits.vocab_size, "stop_token_ids");
  }
  Check(sampling.stop.empty() || limits.has_vocabulary, kInvalid,
        "stop strings need a tokenizer, and this model was loaded without one");
  for (const std::string& stop : sampling.stop) {
    Check(!stop.empty(), kInvalid, "stop contains an empty string");
  }
  for (const auto& [name, count] : {std::pair("logprobs", sampling.logprobs),
                                    std::pair("prompt_logprobs", sampling.prompt_logprobs)}) {
    Check(!count || (*count >= 0 && *count <= limits.max_logprobs), kInvalid, name, " is ",
          count.value_or(0), ", expected 0 to ", limits.max_logprobs);
  }
}

}  // namespace

std::string_view FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kAbort:
      return "abort";
    case FinishReason::kError:
      return "error";
  }
  return "";
}

std::string_view PrecisionClassName(PrecisionClass precision) {
  switch (precision) {
    case PrecisionClass::kExact:
      return PrecisionName(Precision::kExact);
    case PrecisionClass::kFp8:
      return PrecisionName(Precision::kFp8);
    case PrecisionClass::kFp4:
      return PrecisionName(Precision::kFp4);
    case PrecisionClass::kMixed:
      return "mixed";
  }
  return "";
}

int64_t CompletionLimit(const Request& request, int64_t max_model_len) {
  const int64_t room = max_model_len - static_cast<int64_t>(request.prompt.size());
  return std::min(room, request.sampling.max_tokens.value_or(room));
}

void ValidateRequest(const Request& request, const RequestLimits& limits) {
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  Check(prompt_tokens >= 1, kInvalid, "the prompt is empty");
  // A completion has at least one token.
  Check(prompt_tokens < limits.max_model_len, kInvalid, "the prompt has ", prompt_tokens,
        " tokens; the model's context of ", limits.max_model_len, " leaves room for ",
        limits.max_model_len - 1, " and one to generate");
  for (const int32_t token : request.prompt) {
    CheckToken(token, limits.vocab_size, "the prompt");
  }
  ValidateSampling(request.sampling, limits);

  const int64_t completion = CompletionLimit(request, limits.max_model_len);
  Check(request.sampling.min_tokens <= completion, kInvalid, "min_tokens is ",
        request.sampling.min_tokens, "; the context of ", limits.max_model_len,
        " tokens leaves room for ", completion);

  // The last token is sampled but never computed, so it needs no place in the cache.
  const int64_t cached = prompt_tokens + completion - 1;
  Check(cached <= limits.max_kv_tokens, kInvalid, "the prompt of ", prompt_tokens,
        " tokens and max_tokens need ", cached, " places in the KV cache, which has ",
        limits.max_kv_tokens, " in all: ask for fewer tokens");

  Check(InRange(request.ttft_target, 0, 1e9) && InRange(request.tpot_target, 0, 1e9), kInvalid,
        "ttft_target and tpot_target are seconds, at least 0");
  const std::string& reason = request.precision == PrecisionPin::kExact ? limits.fp16_unsupported
                              : request.precision == PrecisionPin::kFp8 ? limits.fp8_unsupported
                                                                        : std::string();
  Check(reason.empty(), ErrorCode::kUnsupported, "precision: ", reason);
}

}  // namespace dualfp
