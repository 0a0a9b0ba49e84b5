#include "dualfp/server/openai/generation_options.h"

#include <charconv>
#include <limits>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int64_t>::max();
constexpr size_t kMaxNameBytes = 1024;
constexpr size_t kMaxBiases = 4096;

std::vector<std::pair<int32_t, float>> ReadLogitBias(RequestFields& fields, int64_t vocab_size) {
  std::vector<std::pair<int32_t, float>> biases;
  const Json* object = fields.FindObject("logit_bias");
  if (object == nullptr) {
    return biases;
  }
  if (object->size() > kMaxBiases) {
    fields.Fail("logit_bias",
                StrCat("expected at most ", kMaxBiases, " tokens, got ", object->size()));
  }
  for (const auto& [key, value] : object->items()) {
    int64_t token = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (error != std::errc() || end != key.data() + key.size() || token < 0 ||
        token >= vocab_size) {
      fields.Fail("logit_bias", StrCat("expected token ids in [0, ", vocab_size - 1,
                                       "] as keys, got ", QuoteForMessage(key)));
    }
    if (!value.is_number() || !(value.get<double>() >= -100.0 && value.get<double>() <= 100.0)) {
      fields.FailExpected("logit_bias", "numbers in [-100, 100]", value);
    }
    // "7" and "07" are one token; the last wins, as with a repeated key.
    const auto same = [&](const auto& bias) { return bias.first == token; };
    std::erase_if(biases, same);
    biases.emplace_back(static_cast<int32_t>(token), value.get<float>());
  }
  return biases;
}

PrecisionPin ReadPrecision(RequestFields& fields) {
  const std::string name = fields.String("precision", kMaxNameBytes).value_or("auto");
  if (name == "exact" || name == "fp16") {
    return PrecisionPin::kExact;
  }
  if (name == "fp8") {
    return PrecisionPin::kFp8;
  }
  if (name != "auto") {
    fields.FailExpected("precision", "\"exact\", \"fp8\" or \"auto\"", Json(name));
  }
  return PrecisionPin::kAuto;
}

void ReadStream(RequestFields& fields, GenerationOptions* options) {
  options->stream = fields.Bool("stream").value_or(false);
  if (const Json* object = fields.FindObject("stream_options")) {
    if (!options->stream) {
      fields.Fail("stream_options", "only allowed when stream is true");
    }
    RequestFields inner(*object, "stream_options.");
    options->include_usage = inner.Bool("include_usage").value_or(false);
    options->continuous_usage = inner.Bool("continuous_usage_stats").value_or(false);
    options->unknown_fields = inner.Unknown();
  }
}

void ReadSampling(RequestFields& fields, const RequestRules& rules, SamplingParams* sampling) {
  const SamplingDefaults& defaults = rules.defaults;
  const auto number = [&](std::string_view key, double min, double max, float otherwise) {
    const std::optional<double> value = fields.Number(key, min, max);
    return value ? static_cast<float>(*value) : otherwise;
  };
  sampling->n = static_cast<int>(fields.Int("n", 1, rules.max_choices).value_or(1));
  sampling->temperature = number("temperature", 0.0, 2.0, defaults.temperature.value_or(1.0f));
  sampling->top_p = number("top_p", 0.0, 1.0, defaults.top_p.value_or(1.0f));
  if (sampling->top_p == 0.0f) {
    fields.Fail("top_p", "expected a number greater than 0 and at most 1, got 0");
  }
  sampling->top_k = fields.Int("top_k", -1, kMaxInt).value_or(defaults.top_k.value_or(0));
  sampling->min_p = number("min_p", 0.0, 1.0, defaults.min_p.value_or(0.0f));
  sampling->presence_penalty = number("presence_penalty", -2.0, 2.0, 0.0f);
  sampling->frequency_penalty = number("frequency_penalty", -2.0, 2.0, 0.0f);
  sampling->repetition_penalty =
      number("repetition_penalty", 0.01, 100.0, defaults.repetition_penalty.value_or(1.0f));
  sampling->logit_bias = ReadLogitBias(fields, rules.vocab_size);
  if (const auto seed = fields.Int("seed", std::numeric_limits<int64_t>::min(), kMaxInt)) {
    sampling->seed = static_cast<uint64_t>(*seed);
  }
  if (auto stop = fields.Strings("stop", rules.max_stop_strings, rules.max_stop_bytes)) {
    sampling->stop = *std::move(stop);
  }
  for (const std::string& text : sampling->stop) {
    if (text.empty()) {
      fields.Fail("stop", "expected strings that are not empty");
    }
  }
  if (auto tokens = fields.TokenIds("stop_token_ids", 1024, rules.vocab_size)) {
    sampling->stop_token_ids = *std::move(tokens);
  }
  sampling->include_stop_str_in_output = fields.Bool("include_stop_str_in_output").value_or(false);
  sampling->ignore_eos = fields.Bool("ignore_eos").value_or(false);
  sampling->skip_special_tokens = fields.Bool("skip_special_tokens").value_or(true);
  sampling->min_tokens = fields.Int("min_tokens", 0, rules.max_model_len).value_or(0);
  if (const auto count = fields.Int("prompt_logprobs", 0, rules.max_logprobs)) {
    sampling->prompt_logprobs = static_cast<int>(*count);
  }
}

// Features that change what is generated: to ignore them would be to answer another question.
void RefuseUnsupported(RequestFields& fields) {
  if (const Json* format = fields.FindObject("response_format")) {
    RequestFields inner(*format, "response_format.");
    const auto type = inner.String("type", kMaxNameBytes);
    if (type != "text") {
      inner.Fail("type", "only \"text\" is supported");
    }
  }
  for (const std::string_view key :
       {"guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"}) {
    fields.Refuse(key, "structured outputs are not supported");
  }
  for (const std::string_view key :
       {"use_beam_search", "prompt_embeds", "logits_processors", "allowed_token_ids", "bad_words",
        "return_tokens_as_token_ids", "logprob_token_ids", "chat_template", "documents",
        "mm_processor_kwargs", "kv_transfer_params", "vllm_xargs", "thinking_token_budget",
        "repetition_detection", "web_search_options",
        // Of other servers.
        "grammar", "json_schema", "mirostat", "dry_multiplier", "xtc_probability", "dynatemp_range",
        "n_predict"}) {
    fields.Refuse(key, "not supported");
  }
  for (const auto& [key, neutral] : {std::pair("length_penalty", 1.0), std::pair("typical_p", 1.0),
                                     std::pair("top_n_sigma", -1.0)}) {
    const Json* value = fields.Find(key);
    if (value != nullptr && !(value->is_number() && value->get<double>() == neutral)) {
      fields.Refuse(key, "not supported");
    }
  }
}

void CheckTextParts(const Json& parts, const RequestFields& message) {
  for (const Json& part : parts) {
    if (part.is_string()) {
      continue;
    }
    if (!part.is_object()) {
      message.FailExpected("content", "a string or an array of parts", part);
    }
    RequestFields fields(part);
    const auto type = fields.String("type", kMaxNameBytes);
    const Json* value = type == "text" || type == "refusal" ? fields.Find(*type) : nullptr;
    if (value == nullptr || !value->is_string()) {
      message.Fail("content", "only parts {\"type\": \"text\", \"text\": ...} are supported");
    }
  }
}

}  // namespace

std::optional<int64_t> ReadMaxTokens(RequestFields& fields, std::string_view key, int64_t min) {
  return fields.Int(key, min, kMaxInt);
}

void CheckSamplingDefaults(const SamplingDefaults& defaults) {
  Json request = Json::object();
  const auto set = [&](const char* key, const auto& value) {
    if (value) {
      request[key] = *value;
    }
  };
  set("temperature", defaults.temperature);
  set("top_p", defaults.top_p);
  set("top_k", defaults.top_k);
  set("min_p", defaults.min_p);
  set("repetition_penalty", defaults.repetition_penalty);
  try {
    RequestFields fields(request);
    SamplingParams sampling;
    ReadSampling(fields, RequestRules{}, &sampling);
  } catch (const ApiError& error) {
    Fail(ErrorCode::kInvalidFile, "generation_config.json: ", error.what(),
         "; --generation-config vllm serves without its defaults");
  }
}

GenerationOptions ReadGenerationOptions(RequestFields& fields, const RequestRules& rules) {
  GenerationOptions options;
  options.model = fields.String("model", kMaxNameBytes).value_or("");
  ReadStream(fields, &options);
  ReadSampling(fields, rules, &options.sampling);
  options.precision = ReadPrecision(fields);
  constexpr int64_t kMaxPriority = std::numeric_limits<int>::max();
  options.priority =
      static_cast<int>(fields.Int("priority", -kMaxPriority, kMaxPriority).value_or(0));
  if (options.priority != 0 && !rules.allow_priority) {
    fields.Fail("priority", "this server was started without --enable-priorities");
  }
  options.ttft_target = fields.Number("ttft_target", 0.0, 1e6).value_or(0.0);
  options.tpot_target = fields.Number("tpot_target", 0.0, 1e6).value_or(0.0);
  options.return_token_ids = fields.Bool("return_token_ids").value_or(false);
  options.cache_salt = fields.String("cache_salt", kMaxNameBytes).value_or("");
  options.truncate_prompt_tokens =
      fields.Int("truncate_prompt_tokens", -1, std::numeric_limits<int32_t>::max());
  if (options.truncate_prompt_tokens == 0) {
    fields.Fail("truncate_prompt_tokens", "expected -1 (all that fit) or at least 1, got 0");
  }
  fields.String("user", std::numeric_limits<size_t>::max());
  RefuseUnsupported(fields);
  for (const std::string_view key : {"metadata", "store", "service_tier", "safety_identifier",
                                     "prompt_cache_key", "reasoning_effort", "verbosity",
                                     "request_id", "detokenize", "spaces_between_special_tokens"}) {
    fields.Ignore(key);
  }
  return options;
}

ChatPrompt ReadChatPrompt(RequestFields& fields) {
  ChatPrompt prompt;
  const Json* messages = fields.Find("messages");
  if (messages == nullptr) {
    fields.Fail("messages", "expected an array of messages, but it is missing");
  }
  if (!messages->is_array() || messages->empty()) {
    fields.FailExpected("messages", "an array of at least one message", *messages);
  }
  prompt.messages = Json::array();
  for (const Json& message : *messages) {
    const std::string path = StrCat("messages[", prompt.messages.size(), "]");
    if (!message.is_object()) {
      fields.FailExpected(StrCat(path), "an object", message);
    }
    RequestFields inner(message, path + ".");
    const auto role = inner.String("role", kMaxNameBytes);
    if (!role || role->empty()) {
      inner.Fail("role", "expected \"system\", \"user\" or \"assistant\", but it is missing");
    }
    const Json* content = inner.Find("content");
    if (content == nullptr && *role != "assistant") {
      inner.Fail("content", "expected a string or an array of parts, but it is missing");
    }
    if (content != nullptr && content->is_array()) {
      CheckTextParts(*content, inner);
    } else if (content != nullptr && !content->is_string()) {
      inner.FailExpected("content", "a string or an array of parts", *content);
    }
    prompt.messages.push_back(message);
  }
  prompt.continue_final_message = fields.Bool("continue_final_message").value_or(false);
  prompt.add_generation_prompt =
      fields.Bool("add_generation_prompt").value_or(!prompt.continue_final_message);
  if (prompt.continue_final_message && prompt.add_generation_prompt) {
    fields.Fail("continue_final_message", "not allowed together with add_generation_prompt");
  }
  if (const Json* arguments = fields.FindObject("chat_template_kwargs")) {
    prompt.template_arguments = *arguments;
  }
  return prompt;
}

}  // namespace dualfp
