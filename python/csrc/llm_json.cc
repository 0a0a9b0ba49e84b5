#include "python/csrc/llm_json.h"

#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include "dualfp/base/check.h"

namespace dualfp::python {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 40;
constexpr int64_t kMostTokenId = std::numeric_limits<int32_t>::max();
constexpr int kMostInt = std::numeric_limits<int>::max();

// Fields that are read, so that those left over can be refused.
class Fields {
 public:
  Fields(const Json& json, std::string_view origin) : fields_(json, origin) {}

  void Read(const char* key, std::string* value) { Assign(fields_.FindString(Seen(key)), value); }
  void Read(const char* key, bool* value) { Assign(fields_.FindBool(Seen(key)), value); }
  template <typename Int>
  void Read(const char* key, int64_t min, int64_t max, Int* value) {
    Assign(fields_.FindInt(Seen(key), min, max), value);
  }
  template <typename Float>
  void ReadNumber(const char* key, Float* value) {
    Assign(fields_.FindNumber(Seen(key), -1e300, 1e300), value);
  }
  template <typename Int>
  void ReadInts(const char* key, int64_t min, int64_t max, std::vector<Int>* value) {
    if (const auto given = fields_.FindIntOrInts(Seen(key), min, max)) {
      value->assign(given->begin(), given->end());
    }
  }
  JsonFields& json() { return fields_; }
  const char* Seen(const char* key) {
    seen_.insert(key);
    return key;
  }
  void RefuseOthers() const {
    for (const auto& [key, value] : fields_.json().items()) {
      Check(seen_.count(key) > 0, ErrorCode::kInvalidArgument, fields_.origin(), ": no field ",
            QuoteForMessage(key));
    }
  }

 private:
  template <typename Given, typename Value>
  static void Assign(const std::optional<Given>& given, Value* value) {
    if (given) {
      *value = static_cast<Value>(*given);
    }
  }
  template <typename Given, typename Value>
  static void Assign(const std::optional<Given>& given, std::optional<Value>* value) {
    if (given) {
      *value = static_cast<Value>(*given);
    }
  }

  JsonFields fields_;
  std::set<std::string> seen_;
};

void ReadSampling(Fields& fields, SamplingParams* sampling) {
  fields.Read("n", 1, kMostInt, &sampling->n);
  fields.Read("max_tokens", 0, kMostTokens, &sampling->max_tokens);
  fields.Read("min_tokens", 0, kMostTokens, &sampling->min_tokens);
  fields.ReadNumber("temperature", &sampling->temperature);
  fields.ReadNumber("top_p", &sampling->top_p);
  fields.Read("top_k", -1, kMostTokens, &sampling->top_k);
  fields.ReadNumber("min_p", &sampling->min_p);
  fields.ReadNumber("presence_penalty", &sampling->presence_penalty);
  fields.ReadNumber("frequency_penalty", &sampling->frequency_penalty);
  fields.ReadNumber("repetition_penalty", &sampling->repetition_penalty);
  constexpr int64_t kLeast = std::numeric_limits<int64_t>::min();
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  fields.Read("seed", kLeast, kMost, &sampling->seed);
  if (auto stop = fields.json().FindStrings(fields.Seen("stop"))) {
    sampling->stop = *std::move(stop);
  }
  fields.ReadInts("stop_token_ids", 0, kMostTokenId, &sampling->stop_token_ids);
  fields.Read("include_stop_str_in_output", &sampling->include_stop_str_in_output);
  fields.Read("ignore_eos", &sampling->ignore_eos);
  fields.Read("skip_special_tokens", &sampling->skip_special_tokens);
  fields.Read("logprobs", 0, kMostInt, &sampling->logprobs);
  fields.Read("prompt_logprobs", 0, kMostInt, &sampling->prompt_logprobs);
  // Pairs of a token and its bias.
  std::vector<int32_t> tokens;
  fields.ReadInts("logit_bias_tokens", 0, kMostTokenId, &tokens);
  if (const auto values = fields.json().FindNumbers(fields.Seen("logit_bias_values"), -100, 100)) {
    Check(values->size() == tokens.size(), ErrorCode::kInvalidArgument, "request: ", tokens.size(),
          " tokens and ", values->size(), " biases");
    for (size_t i = 0; i < tokens.size(); ++i) {
      sampling->logit_bias.emplace_back(tokens[i], static_cast<float>((*values)[i]));
    }
  }
}

Precision NamedPrecision(const std::string& name) {
  const std::optional<Precision> precision = ParsePrecision(name);
  Check(precision == Precision::kExact || precision == Precision::kFp8, ErrorCode::kInvalidArgument,
        "precision ", QuoteForMessage(name), ": expected exact (alias fp16), fp8 or auto");
  return *precision;
}

PrecisionPin ReadPin(const std::string& name) {
  return name == "auto" || name.empty()            ? PrecisionPin::kAuto
         : NamedPrecision(name) == Precision::kFp8 ? PrecisionPin::kFp8
                                                   : PrecisionPin::kExact;
}

Json ToJson(const TokenLogprob& logprob) {
  return {{"token_id", logprob.token_id},
          {"logprob", logprob.logprob},
          {"rank", logprob.rank},
          // Possibly half a character, which JSON's text cannot hold.
          {"bytes", std::vector<int>(reinterpret_cast<const uint8_t*>(logprob.bytes.data()),
                                     reinterpret_cast<const uint8_t*>(logprob.bytes.data()) +
                                         logprob.bytes.size())}};
}

Json ToJson(std::span<const PositionLogprobs> positions) {
  Json list = Json::array();
  for (const PositionLogprobs& position : positions) {
    if (position.chosen.token_id < 0) {
      list.push_back(nullptr);
      continue;
    }
    Json tokens = Json::array({ToJson(position.chosen)});
    for (const TokenLogprob& other : position.top) {
      if (other.token_id != position.chosen.token_id) {
        tokens.push_back(ToJson(other));
      }
    }
    list.push_back(std::move(tokens));
  }
  return list;
}

Json ByPrecision(const TokensByPrecision& tokens) {
  Json json = Json::object();
  for (int i = 0; i < kNumPrecisionClasses; ++i) {
    json[std::string(PrecisionClassName(static_cast<PrecisionClass>(i)))] =
        tokens[static_cast<size_t>(i)];
  }
  return json;
}

Json ToJson(const StopReason& reason) {
  return std::visit(
      [](const auto& value) -> Json {
        if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::monostate>) {
          return nullptr;
        } else {
          return value;
        }
      },
      reason);
}

}  // namespace

LlmOptions ReadOptions(const Json& json) {
  LlmOptions options;
  Fields fields(json, "LLM");
  fields.Read("model", &options.model.model);
  fields.Read("quantization", &options.model.quantization);
  fields.Read("load_format", &options.model.load_format);
  fields.Read("quantize_lm_head", &options.model.quantize_lm_head);
  fields.Read("threads", 0, 4096, &options.model.threads);
  fields.Read("device", &options.device);
  fields.Read("dtype", &options.dtype);
  fields.Read("kv_cache_dtype", &options.kv_cache_dtype);
  fields.ReadNumber("kv_cache_gigabytes", &options.kv_cache_gigabytes);
  fields.ReadNumber("gpu_memory_utilization", &options.gpu_memory_utilization);
  fields.Read("max_model_len", 0, kMostTokens, &options.max_model_len);
  fields.Read("max_num_seqs", 1, kMostInt, &options.max_num_seqs);
  fields.Read("max_num_batched_tokens", 1, kMostTokens, &options.max_num_batched_tokens);
  fields.Read("max_waiting", 1, kMostInt, &options.max_waiting);
  fields.Read("enable_prefix_caching", &options.enable_prefix_caching);
  fields.Read("tensor_parallel_size", 1, 4096, &options.tensor_parallel_size);
  fields.Read("seed", 0, std::numeric_limits<int64_t>::max(), &options.seed);
  fields.Read("chat_template", &options.chat_template);
  fields.Read("tokenizer", &options.tokenizer);
  fields.Read("generation_config", &options.generation_config);
  fields.Read("precision", &options.precision);
  fields.ReadInts("fp8_layers", 0, kMostInt, &options.fp8_layers);
  fields.Read("policy", &options.policy);
  fields.Read("layer_sensitivity", &options.layer_sensitivity);
  fields.Read("max_fp16_tokens", 0, kMostTokens, &options.max_fp16_tokens);
  fields.ReadNumber("ttft_target_ms", &options.ttft_target_ms);
  fields.ReadNumber("tpot_target_ms", &options.tpot_target_ms);
  fields.RefuseOthers();
  Check(options.precision == "auto" || ParsePrecision(options.precision).has_value(),
        ErrorCode::kInvalidArgument, "LLM: precision ", QuoteForMessage(options.precision),
        ": expected auto, exact or fp8");
  Check(options.policy == "slo" || options.policy == "threshold" || options.policy == "prefill",
        ErrorCode::kInvalidArgument, "LLM: policy ", QuoteForMessage(options.policy),
        ": expected slo, threshold or prefill");
  return options;
}

Request ReadRequest(const Json& json) {
  Request request;
  Fields fields(json, "request");
  fields.ReadInts("prompt_token_ids", 0, kMostTokenId, &request.prompt);
  ReadSampling(fields, &request.sampling);
  std::string precision;
  fields.Read("precision", &precision);
  request.precision = ReadPin(precision);
  fields.Read("priority", -kMostInt, kMostInt, &request.priority);
  fields.ReadNumber("ttft_target", &request.ttft_target);
  fields.ReadNumber("tpot_target", &request.tpot_target);
  fields.Read("cache_salt", &request.cache_salt);
  fields.RefuseOthers();
  return request;
}

PrecisionSetting ReadPrecision(const Json& json) {
  PrecisionSetting setting;
  if (json.is_array()) {
    setting.mode = PrecisionMode::kLayers;
    for (const Json& name : json) {
      Check(name.is_string(), ErrorCode::kInvalidArgument, "precision: a layer's is ",
            DescribeJson(name), ", expected \"exact\" or \"fp8\"");
      setting.layers.push_back(NamedPrecision(name.get<std::string>()));
    }
    return setting;
  }
  Check(json.is_string(), ErrorCode::kInvalidArgument, "precision ", DescribeJson(json),
        ": expected exact, fp8, auto, or one for each layer");
  switch (ReadPin(json.get<std::string>())) {
    case PrecisionPin::kAuto:
      setting.mode = PrecisionMode::kAuto;
      break;
    case PrecisionPin::kExact:
      setting.mode = PrecisionMode::kExact;
      break;
    case PrecisionPin::kFp8:
      setting.mode = PrecisionMode::kFp8;
      break;
  }
  return setting;
}

Json ToJson(const RequestOutput& output) {
  Json json;
  json["finished"] = output.finished;
  if (!output.error.empty()) {
    json["error"] = output.error;
  }
  json["choices"] = Json::array();
  for (const ChoiceOutput& choice : output.choices) {
    Json entry;
    entry["index"] = choice.index;
    entry["text"] = choice.text;
    entry["token_ids"] = std::vector<int32_t>(choice.token_ids.begin(), choice.token_ids.end());
    entry["logprobs"] = ToJson(choice.logprobs);
    entry["finish_reason"] = FinishReasonName(choice.finish_reason);
    entry["stop_reason"] = ToJson(choice.stop_reason);
    json["choices"].push_back(std::move(entry));
  }
  json["prompt_logprobs"] = ToJson(output.prompt_logprobs);
  json["usage"] = {{"prompt_tokens", output.usage.prompt_tokens},
                   {"cached_tokens", output.usage.cached_tokens},
                   {"completion_tokens", output.usage.completion_tokens},
                   {"prompt_by_precision", ByPrecision(output.usage.prompt_by_precision)},
                   {"completion_by_precision", ByPrecision(output.usage.completion_by_precision)}};
  return json;
}

Json ToJson(const PrecisionStatus& status) {
  Json json;
  switch (status.setting.mode) {
    case PrecisionMode::kExact:
      json["precision"] = "exact";
      break;
    case PrecisionMode::kFp8:
      json["precision"] = "fp8";
      break;
    case PrecisionMode::kAuto:
      json["precision"] = "auto";
      break;
    case PrecisionMode::kLayers:
      json["precision"] = Json::array();
      for (const Precision layer : status.setting.layers) {
        json["precision"].push_back(PrecisionName(layer));
      }
      break;
  }
  json["controller"] = status.controller;
  return json;
}

Json InfoOf(const Llm& llm) {
  const RunnerInfo& info = llm.engine->info();
  std::string fp8_unsupported;
  try {
    CheckComputesAtFp8(*llm.model);
  } catch (const Error& error) {
    fp8_unsupported = error.what();
  }
  const GenerationConfig& generation = llm.generation;
  Json defaults = Json::object();
  const auto set = [&](const char* key, const auto& value) {
    if (value) {
      defaults[key] = *value;
    }
  };
  set("temperature", generation.temperature);
  set("top_p", generation.top_p);
  set("top_k", generation.top_k);
  set("min_p", generation.min_p);
  set("repetition_penalty", generation.repetition_penalty);
  return {{"description", llm.Describe()},       {"num_layers", info.num_layers},
          {"max_model_len", info.max_model_len}, {"max_waiting", llm.engine->config().max_waiting},
          {"vocab_size", llm.config.vocab_size}, {"has_tokenizer", llm.text != nullptr},
          {"fp8_unsupported", fp8_unsupported},  {"default_sampling", defaults}};
}

}  // namespace dualfp::python
