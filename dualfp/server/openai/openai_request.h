// What clients ask, from JSON to plain data: types, ranges and defaults, but neither tokens nor
// sockets. Pure functions; every mistake is an ApiError 400 that names the field.
//
// Names, defaults and ranges are OpenAI's where OpenAI has the field, else vLLM's.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "dualfp/engine/engine.h"
#include "dualfp/io/json.h"
#include "dualfp/llm/text_codec.h"

namespace dualfp {

// For requests that do not say: the publisher's generation_config.json.
struct SamplingDefaults {
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<int64_t> top_k;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
};

// Throws kInvalidFile for defaults that a request could not have: no request without the field
// would pass.
void CheckSamplingDefaults(const SamplingDefaults& defaults);

// What a served model allows.
struct RequestRules {
  int64_t vocab_size = 0;
  int64_t max_model_len = 0;
  int max_logprobs = 20;
  int max_choices = 128;  // n times the number of prompts
  size_t max_stop_strings = 64;
  size_t max_stop_bytes = 1024;  // of one string
  bool allow_priority = false;   // other than 0
  SamplingDefaults defaults;
};

// What chat and plain completions have in common.
struct GenerationOptions {
  std::string model;  // empty: the one that is served
  SamplingParams sampling;
  bool max_tokens_is_default = false;  // then it gives way to the context's length
  PrecisionPin precision = PrecisionPin::kAuto;
  int priority = 0;
  double ttft_target = 0.0;  // seconds; 0: the server's
  double tpot_target = 0.0;
  std::string cache_salt;

  bool stream = false;
  bool include_usage = false;     // a last chunk with the usage
  bool continuous_usage = false;  // the usage so far in every chunk
  bool return_token_ids = false;  // those of the prompt and of the answer, beside the text

  bool add_special_tokens = true;
  std::optional<int64_t> truncate_prompt_tokens;  // keep this many, dropping the first

  // Fields that were not understood, for a warning in the log.
  std::vector<std::string> unknown_fields;
};

using Prompt = std::variant<std::string, std::vector<int32_t>>;

struct CompletionRequest {
  GenerationOptions options;
  std::vector<Prompt> prompts;  // at least one
  bool echo = false;            // the prompt's text (and logprobs) before the completion's
  bool generate = true;         // false: echo with max_tokens 0, which only scores the prompt
};

struct ChatCompletionRequest {
  GenerationOptions options;
  ChatPrompt prompt;
};

struct TokenizeRequest {
  std::string model;
  std::variant<std::string, ChatPrompt> text;
  bool add_special_tokens = true;
  bool return_token_strings = false;
};

struct DetokenizeRequest {
  std::string model;
  std::vector<int32_t> tokens;
};

CompletionRequest ParseCompletionRequest(std::string_view body, const RequestRules& rules);
ChatCompletionRequest ParseChatRequest(std::string_view body, const RequestRules& rules);
TokenizeRequest ParseTokenizeRequest(std::string_view body);
DetokenizeRequest ParseDetokenizeRequest(std::string_view body, const RequestRules& rules);

// {"mode": "exact" | "fp8" | "auto"}; "fp16" is an alias of "exact"
// {"mode": "fp8", "layers": [3, 4]}    these layers in FP8, the others in FP16
// {"layers": ["exact", "fp8", ...]}    one for each layer; "mode": "layers" may be there, as in
//                                      GET's answer
PrecisionSetting ParsePrecisionRequest(std::string_view body, int num_layers);

}  // namespace dualfp
