#include "dualfp/server/openai/openai_request.h"

#include <algorithm>

#include "dualfp/base/check.h"
#include "dualfp/server/openai/generation_options.h"
#include "dualfp/server/openai/request_fields.h"

namespace dualfp {
namespace {

constexpr size_t kMaxNameBytes = 1024;

// OpenAI's default for plain completions; a chat answer may fill the context.
constexpr int64_t kDefaultCompletionTokens = 16;

void CheckMinTokens(const RequestFields& fields, const SamplingParams& sampling) {
  if (sampling.max_tokens && sampling.min_tokens > *sampling.max_tokens) {
    fields.Fail("min_tokens", StrCat("expected at most max_tokens (", *sampling.max_tokens,
                                     "), got ", sampling.min_tokens));
  }
}

void CheckPromptLogprobs(const RequestFields& fields, const GenerationOptions& options) {
  if (options.stream && options.sampling.prompt_logprobs) {
    fields.Fail("prompt_logprobs", "not available when stream is true");
  }
}

std::vector<int32_t> ReadTokens(const RequestFields& fields, const Json& array,
                                int64_t vocab_size) {
  std::vector<int32_t> tokens;
  tokens.reserve(array.size());
  for (const Json& element : array) {
    const auto id = JsonToInt(element, 0, vocab_size - 1);
    if (!id) {
      fields.FailExpected("prompt", StrCat("token ids in [0, ", vocab_size - 1, "]"), element);
    }
    tokens.push_back(static_cast<int32_t>(*id));
  }
  return tokens;
}

// A string, strings, token ids, or lists of token ids.
std::vector<Prompt> ReadPrompts(RequestFields& fields, const RequestRules& rules, int n) {
  constexpr std::string_view kExpected =
      "a string, an array of strings, of token ids, or of arrays of token ids";
  const Json* value = fields.Find("prompt");
  if (value == nullptr) {
    fields.Fail("prompt", StrCat("expected ", kExpected, ", but it is missing"));
  }
  std::vector<Prompt> prompts;
  if (value->is_string()) {
    prompts.emplace_back(value->get<std::string>());
    return prompts;
  }
  if (!value->is_array() || value->empty()) {
    fields.FailExpected("prompt", kExpected, *value);
  }
  if (value->front().is_number()) {
    prompts.emplace_back(ReadTokens(fields, *value, rules.vocab_size));
    return prompts;
  }
  const size_t max_prompts = static_cast<size_t>(rules.max_choices / n);
  if (value->size() > max_prompts) {
    fields.Fail("prompt", StrCat("expected at most ", max_prompts, " prompts with n of ", n,
                                 ", got ", value->size()));
  }
  for (const Json& element : *value) {
    if (element.is_string()) {
      prompts.emplace_back(element.get<std::string>());
    } else if (element.is_array()) {
      prompts.emplace_back(ReadTokens(fields, element, rules.vocab_size));
    } else {
      fields.FailExpected("prompt", kExpected, element);
    }
  }
  return prompts;
}

template <typename Options>
void CollectUnknown(const RequestFields& fields, Options* options) {
  for (std::string& name : fields.Unknown()) {
    options->unknown_fields.push_back(std::move(name));
  }
}

Precision ReadPrecisionName(const RequestFields& fields, const Json& name) {
  const auto precision = name.is_string() ? ParsePrecision(name.get<std::string>()) : std::nullopt;
  if (!precision || precision == Precision::kFp4) {
    fields.FailExpected("layers", "\"exact\" or \"fp8\" for each layer", name);
  }
  return *precision;
}

}  // namespace

CompletionRequest ParseCompletionRequest(std::string_view body, const RequestRules& rules) {
  const Json json = ParseRequestBody(body);
  RequestFields fields(json);
  CompletionRequest request;
  request.options = ReadGenerationOptions(fields, rules);
  SamplingParams& sampling = request.options.sampling;
  request.options.add_special_tokens = fields.Bool("add_special_tokens").value_or(true);
  request.prompts = ReadPrompts(fields, rules, sampling.n);
  request.echo = fields.Bool("echo").value_or(false);

  sampling.max_tokens = ReadMaxTokens(fields, "max_tokens", request.echo ? 0 : 1);
  if (!sampling.max_tokens) {
    sampling.max_tokens = kDefaultCompletionTokens;
    request.options.max_tokens_is_default = true;
  }
  if (sampling.max_tokens == 0) {
    // The engine always samples one token; it is dropped from the answer.
    request.generate = false;
    sampling.max_tokens = 1;
    sampling.min_tokens = 0;
  }
  if (!request.options.max_tokens_is_default) {
    CheckMinTokens(fields, sampling);
  }
  sampling.max_tokens = std::max(*sampling.max_tokens, sampling.min_tokens);

  if (const auto count = fields.Int("logprobs", 0, rules.max_logprobs)) {
    sampling.logprobs = static_cast<int>(*count);
  }
  CheckPromptLogprobs(fields, request.options);
  if (request.echo && sampling.logprobs && !sampling.prompt_logprobs) {
    sampling.prompt_logprobs = sampling.logprobs;
  }
  if (const auto best_of = fields.Int("best_of", 1, rules.max_choices)) {
    if (*best_of != sampling.n) {
      fields.Fail("best_of", StrCat("only the value of n (", sampling.n, ") is supported"));
    }
  }
  fields.Refuse("suffix", "not supported");
  CollectUnknown(fields, &request.options);
  return request;
}

ChatCompletionRequest ParseChatRequest(std::string_view body, const RequestRules& rules) {
  const Json json = ParseRequestBody(body);
  RequestFields fields(json);
  ChatCompletionRequest request;
  request.options = ReadGenerationOptions(fields, rules);
  request.prompt = ReadChatPrompt(fields);
  if (const auto effort = fields.String("reasoning_effort", kMaxNameBytes)) {
    // Templates that know it are those that it means something to.
    request.prompt.template_arguments.emplace("reasoning_effort", *effort);
  }
  SamplingParams& sampling = request.options.sampling;
  // A chat template writes the special tokens itself.
  request.options.add_special_tokens = fields.Bool("add_special_tokens").value_or(false);

  sampling.max_tokens = ReadMaxTokens(fields, "max_completion_tokens", 1);
  const auto max_tokens = ReadMaxTokens(fields, "max_tokens", 1);
  if (!sampling.max_tokens) {
    sampling.max_tokens = max_tokens;
  }
  CheckMinTokens(fields, sampling);

  const bool logprobs = fields.Bool("logprobs").value_or(false);
  const auto top_logprobs = fields.Int("top_logprobs", 0, rules.max_logprobs);
  if (top_logprobs && !logprobs) {
    fields.Fail("top_logprobs", "only allowed when logprobs is true");
  }
  if (logprobs) {
    sampling.logprobs = static_cast<int>(top_logprobs.value_or(0));
  }
  CheckPromptLogprobs(fields, request.options);

  for (const auto& [choice_key, key] :
       {std::pair("tool_choice", "tools"), std::pair("function_call", "functions")}) {
    const Json* choice = fields.Find(choice_key);
    if (choice != nullptr && *choice == "none") {
      fields.Ignore(key);
      continue;
    }
    if (choice != nullptr && *choice != "auto") {
      fields.Refuse(choice_key, "tool calls are not supported");
    }
    fields.Refuse(key, "tool calls are not supported");
  }
  fields.Refuse("echo", "not supported in chats");
  fields.Ignore("parallel_tool_calls");
  fields.Refuse("audio", "only text is supported");
  if (const Json* modalities = fields.Find("modalities")) {
    if (*modalities != Json::array({"text"})) {
      fields.FailExpected("modalities", "[\"text\"]", *modalities);
    }
  }
  CollectUnknown(fields, &request.options);
  return request;
}

TokenizeRequest ParseTokenizeRequest(std::string_view body) {
  const Json json = ParseRequestBody(body);
  RequestFields fields(json);
  TokenizeRequest request;
  request.model = fields.String("model", kMaxNameBytes).value_or("");
  const Json* prompt = fields.Find("prompt");
  if (prompt != nullptr && !prompt->is_string()) {
    fields.FailExpected("prompt", "a string", *prompt);
  }
  if (prompt != nullptr) {
    request.text = prompt->get<std::string>();
  } else if (fields.Find("messages") != nullptr) {
    request.text = ReadChatPrompt(fields);
  } else {
    fields.Fail("prompt", "expected a string, but it is missing");
  }
  request.add_special_tokens = fields.Bool("add_special_tokens").value_or(prompt != nullptr);
  request.return_token_strings = fields.Bool("return_token_strs").value_or(false);
  return request;
}

DetokenizeRequest ParseDetokenizeRequest(std::string_view body, const RequestRules& rules) {
  const Json json = ParseRequestBody(body);
  RequestFields fields(json);
  DetokenizeRequest request;
  request.model = fields.String("model", kMaxNameBytes).value_or("");
  auto tokens = fields.TokenIds("tokens", body.size(), rules.vocab_size);
  if (!tokens) {
    fields.Fail("tokens", "expected an array of token ids, but it is missing");
  }
  request.tokens = std::move(*tokens);
  return request;
}

PrecisionSetting ParsePrecisionRequest(std::string_view body, int num_layers) {
  const Json json = ParseRequestBody(body);
  RequestFields fields(json);
  const auto mode = fields.String("mode", kMaxNameBytes);
  const Json* layers = fields.Find("layers");
  if (layers != nullptr && !layers->is_array()) {
    fields.FailExpected("layers", "an array", *layers);
  }
  PrecisionSetting setting;
  if (layers == nullptr) {
    if (mode == "exact" || mode == "fp16") {
      setting.mode = PrecisionMode::kExact;
    } else if (mode == "fp8") {
      setting.mode = PrecisionMode::kFp8;
    } else if (mode != "auto") {
      fields.Fail("mode", "expected \"exact\", \"fp8\" or \"auto\"");
    }
    return setting;
  }

  setting.mode = PrecisionMode::kLayers;
  if (mode && mode != "layers") {
    if (mode != "fp8") {
      fields.Fail("mode",
                  "with layers, expected \"fp8\" for a list of layer numbers or \"layers\" for a "
                  "precision for each layer");
    }
    setting.layers.assign(num_layers, Precision::kExact);
    for (const Json& element : *layers) {
      const auto layer = JsonToInt(element, 0, num_layers - 1);
      if (!layer) {
        fields.FailExpected("layers", StrCat("layer numbers in [0, ", num_layers - 1, "]"),
                            element);
      }
      setting.layers[*layer] = Precision::kFp8;
    }
    return setting;
  }
  if (layers->size() != static_cast<size_t>(num_layers)) {
    fields.Fail("layers",
                StrCat("expected a precision for each of the ", num_layers,
                       " layers (or mode \"fp8\" and layer numbers), got ", layers->size()));
  }
  for (const Json& element : *layers) {
    setting.layers.push_back(ReadPrecisionName(fields, element));
  }
  return setting;
}

}  // namespace dualfp
