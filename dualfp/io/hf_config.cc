#include "dualfp/io/hf_config.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/io/rope_config_internal.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;

// Far above any model. With them a layer has at most 2^44 weights, all layers 2^56, and the
// key-value cache of one sequence 2^60 bytes: no product of sizes overflows 63 bits.
constexpr int64_t kMaxVocabSize = int64_t{1} << 24;
constexpr int64_t kMaxHiddenSize = int64_t{1} << 20;
constexpr int64_t kMaxIntermediateSize = int64_t{1} << 22;
constexpr int64_t kMaxLayers = int64_t{1} << 12;
constexpr int64_t kMaxHeads = int64_t{1} << 16;
constexpr int64_t kMaxHeadDim = int64_t{1} << 14;
constexpr int64_t kMaxHeadsTimesHeadDim = int64_t{1} << 20;
constexpr int64_t kMaxPositions = int64_t{1} << 27;
constexpr int64_t kMaxTokenId = std::numeric_limits<int32_t>::max();

// What transformers assumes where config.json says nothing.
struct ArchitectureRow {
  Architecture architecture;
  std::string_view name;
  std::string_view model_type;
  int64_t max_position_embeddings;
  double rms_norm_eps;
  int64_t num_key_value_heads;  // 0 = num_attention_heads
  int64_t head_dim;             // 0 = hidden_size / num_attention_heads
  int64_t bos_token_id;         // -1 = none
  int64_t eos_token_id;
  int64_t pad_token_id;
  bool qkv_bias;
  bool qk_norm;
};

constexpr std::array kArchitectures = {
    ArchitectureRow{Architecture::kLlama, "LlamaForCausalLM", "llama", 2048, 1e-6, 0, 0, 1, 2, -1,
                    false, false},
    ArchitectureRow{Architecture::kMistral, "MistralForCausalLM", "mistral", 131072, 1e-6, 8, 0, 1,
                    2, -1, false, false},
    ArchitectureRow{Architecture::kPhi3, "Phi3ForCausalLM", "phi3", 4096, 1e-5, 0, 0, 1, 32000,
                    32000, false, false},
    ArchitectureRow{Architecture::kQwen2, "Qwen2ForCausalLM", "qwen2", 32768, 1e-6, 32, 0, -1, -1,
                    -1, true, false},
    ArchitectureRow{Architecture::kQwen3, "Qwen3ForCausalLM", "qwen3", 32768, 1e-6, 32, 128, -1, -1,
                    -1, false, true},
};

const ArchitectureRow& Row(Architecture architecture) {
  const auto index = static_cast<size_t>(architecture);
  CheckInternal(index < kArchitectures.size() && kArchitectures[index].architecture == architecture,
                "unknown architecture ", index);
  return kArchitectures[index];
}

std::string SupportedArchitectures() {
  std::string names;
  for (const ArchitectureRow& row : kArchitectures) {
    names += StrCat(names.empty() ? "" : ", ", row.name);
  }
  return names;
}

// Whether the name is a class of this row's family: its base model or one with any head, in
// whatever case ("LlamaModel", "LLaMAForCausalLM", "LlamaForSequenceClassification").
bool IsOfFamily(std::string_view name, const ArchitectureRow& row) {
  const size_t size = row.model_type.size();
  const bool same =
      name.size() > size && std::equal(row.model_type.begin(), row.model_type.end(), name.begin(),
                                       [](char a, char b) { return a == (b | 0x20) || a == b; });
  return same && (name.substr(size) == "Model" || name.substr(size).starts_with("For"));
}

// `architectures` decides where it names one of ours, else `model_type`, as in transformers' causal
// language models: configurations are saved without a model, with its base class or with another
// head's, whose own tensors then have no place.
const ArchitectureRow& FindArchitecture(const JsonFields& fields) {
  const std::vector<std::string> names =
      fields.FindStrings("architectures").value_or(std::vector<std::string>{});
  for (const ArchitectureRow& row : kArchitectures) {
    if (!names.empty() && names[0] == row.name) {
      return row;
    }
  }
  const std::optional<std::string> type =
      names.empty() ? fields.GetString("model_type") : fields.FindString("model_type");
  for (const ArchitectureRow& row : kArchitectures) {
    if (type == row.model_type && (names.empty() || IsOfFamily(names[0], row))) {
      if (!names.empty()) {
        LogWarning(StrCat(fields.origin(), ": architecture ", QuoteForMessage(names[0]),
                          " is read as ", row.name, ", the language model of its model_type"));
      }
      return row;
    }
  }
  const std::string_view key = names.empty() ? "model_type" : "architectures";
  fields.FailUnsupported(
      key, StrCat("unsupported architecture ", QuoteForMessage(names.empty() ? *type : names[0]),
                  ", expected one of ", SupportedArchitectures()));
}

// Absent means transformers' default, which null replaces by "none".
std::optional<int64_t> FindIntOrDefault(const JsonFields& fields, std::string_view key, int64_t min,
                                        int64_t max, std::optional<int64_t> absent) {
  return fields.FindRaw(key) == nullptr ? absent : fields.FindInt(key, min, max);
}

// -1 is an old spelling of "none".
std::vector<int32_t> TokenIds(const JsonFields& fields, std::string_view key, int64_t absent) {
  const std::vector<int64_t> ids =
      fields.FindRaw(key) == nullptr
          ? std::vector<int64_t>{absent}
          : fields.FindIntOrInts(key, -1, kMaxTokenId).value_or(std::vector<int64_t>{});
  std::vector<int32_t> result;
  for (const int64_t id : ids) {
    if (id >= 0) {
      result.push_back(static_cast<int32_t>(id));
    }
  }
  return result;
}

std::optional<int32_t> TokenId(const JsonFields& fields, std::string_view key, int64_t absent) {
  const std::vector<int32_t> ids = TokenIds(fields, key, absent);
  return ids.empty() ? std::nullopt : std::optional(ids[0]);
}

std::optional<DType> FindDType(const JsonFields& fields) {
  // torch_dtype is the name up to transformers 4; where a file has both, the new one counts.
  const std::string key = fields.Has("dtype") ? "dtype" : "torch_dtype";
  const std::optional<std::string> given = fields.FindString(key);
  if (!given || *given == "auto") {
    return std::nullopt;
  }
  std::string_view name = *given;
  if (name.starts_with("torch.")) {
    name.remove_prefix(std::string_view("torch.").size());
  }
  for (const auto& [spelling, dtype] : {std::pair{"float32", DType::kF32},
                                        {"float", DType::kF32},
                                        {"fp32", DType::kF32},
                                        {"float16", DType::kF16},
                                        {"half", DType::kF16},
                                        {"fp16", DType::kF16},
                                        {"bfloat16", DType::kBF16},
                                        {"bf16", DType::kBF16}}) {
    if (name == spelling) {
      return dtype;
    }
  }
  // Tensors have their own.
  LogWarning(StrCat(fields.origin(), ": ", key, " ", QuoteForMessage(*given), " is ignored"));
  return std::nullopt;
}

void ReadSizes(const JsonFields& fields, const ArchitectureRow& row, ModelConfig& config) {
  config.vocab_size = fields.GetInt("vocab_size", 1, kMaxVocabSize);
  config.hidden_size = fields.GetInt("hidden_size", 1, kMaxHiddenSize);
  config.intermediate_size = fields.GetInt("intermediate_size", 1, kMaxIntermediateSize);
  config.num_hidden_layers = fields.GetInt("num_hidden_layers", 1, kMaxLayers);
  config.num_attention_heads = fields.GetInt("num_attention_heads", 1, kMaxHeads);
  const int64_t heads = config.num_attention_heads;
  config.num_key_value_heads =
      FindIntOrDefault(fields, "num_key_value_heads", 1, kMaxHeads,
                       row.num_key_value_heads != 0 ? row.num_key_value_heads : heads)
          .value_or(heads);
  if (heads % config.num_key_value_heads != 0) {
    fields.FailField("num_key_value_heads", StrCat("expected a divisor of num_attention_heads (",
                                                   heads, "), got ", config.num_key_value_heads));
  }
  if (const auto head_dim = fields.FindInt("head_dim", 1, kMaxHeadDim)) {
    config.head_dim = *head_dim;
  } else if (row.head_dim != 0) {
    config.head_dim = row.head_dim;
  } else {
    config.head_dim = config.hidden_size / heads;
    if (config.hidden_size % heads != 0) {
      fields.FailField("hidden_size",
                       StrCat("expected a multiple of num_attention_heads (", heads,
                              ") where head_dim is absent, got ", config.hidden_size));
    }
    if (config.head_dim > kMaxHeadDim) {
      fields.FailField("hidden_size", StrCat("expected at most ", kMaxHeadDim,
                                             " per attention head, got ", config.head_dim));
    }
  }
  if (heads * config.head_dim > kMaxHeadsTimesHeadDim) {
    fields.FailField("num_attention_heads",
                     StrCat("expected num_attention_heads * head_dim of at most ",
                            kMaxHeadsTimesHeadDim, ", got ", heads, " * ", config.head_dim));
  }
  config.max_position_embeddings = fields.FindInt("max_position_embeddings", 1, kMaxPositions)
                                       .value_or(row.max_position_embeddings);
}

// Mistral and Phi-3 use their window in every layer, Qwen in those that layer_types names or, in
// older files, in those from max_window_layers on; Llama has none.
std::vector<int64_t> ReadWindows(const JsonFields& fields, const ModelConfig& config) {
  const bool is_qwen =
      config.architecture == Architecture::kQwen2 || config.architecture == Architecture::kQwen3;
  int64_t window = 0;
  if (config.architecture == Architecture::kMistral || config.architecture == Architecture::kPhi3 ||
      (is_qwen && fields.FindBool("use_sliding_window").value_or(false))) {
    const bool has_default = config.architecture != Architecture::kPhi3;
    window = FindIntOrDefault(fields, "sliding_window", 1, std::numeric_limits<int32_t>::max(),
                              has_default ? std::optional<int64_t>(4096) : std::nullopt)
                 .value_or(0);
  }
  const int64_t layers = config.num_hidden_layers;
  std::vector<int64_t> windows(static_cast<size_t>(layers), window);
  if (is_qwen) {
    const int64_t full_layers =
        fields.FindInt("max_window_layers", 0, std::numeric_limits<int32_t>::max()).value_or(28);
    std::fill_n(windows.begin(), std::min(full_layers, layers), 0);
  }
  const std::optional<std::vector<std::string>> types = fields.FindStrings("layer_types");
  if (!types) {
    return windows;
  }
  if (types->size() != windows.size()) {
    fields.FailField("layer_types", StrCat("expected an entry for each of ", layers,
                                           " layers, got ", types->size()));
  }
  for (size_t i = 0; i < windows.size(); ++i) {
    const std::string key = StrCat("layer_types[", i, "]");
    const bool is_sliding = (*types)[i] == "sliding_attention";
    if (!is_sliding && (*types)[i] != "full_attention") {
      fields.FailUnsupported(key, StrCat("unsupported layer type ", QuoteForMessage((*types)[i]),
                                         ", expected full_attention or sliding_attention"));
    }
    if (is_sliding && window == 0) {
      fields.FailField(key, is_qwen ? "sliding_attention needs use_sliding_window and "
                                      "sliding_window, which are off"
                                    : "sliding_attention, but the model has no sliding_window");
    }
    if (!is_sliding && window != 0 && !is_qwen) {
      fields.FailUnsupported(key, StrCat("full_attention beside a sliding_window is not part of ",
                                         ArchitectureName(config.architecture)));
    }
    windows[i] = is_sliding ? window : 0;
  }
  return windows;
}

}  // namespace

std::string_view ArchitectureName(Architecture architecture) { return Row(architecture).name; }

ModelConfig ParseModelConfig(const Json& json, std::string_view origin) {
  const JsonFields fields(json, origin);
  const ArchitectureRow& row = FindArchitecture(fields);
  ModelConfig config;
  config.architecture = row.architecture;
  if (fields.Has("per_layer_config")) {
    fields.FailUnsupported("per_layer_config", "layers of different shapes are not supported");
  }
  ReadSizes(fields, row, config);
  config.rms_norm_eps = fields.FindNumber("rms_norm_eps", 0.0, 1.0).value_or(row.rms_norm_eps);
  const std::string activation = fields.FindString("hidden_act").value_or("silu");
  if (activation != "silu" && activation != "swish") {
    fields.FailUnsupported("hidden_act", StrCat("unsupported activation ",
                                                QuoteForMessage(activation), ", expected silu"));
  }
  config.tie_word_embeddings = fields.FindBool("tie_word_embeddings").value_or(false);

  const bool has_attention_bias =
      row.architecture == Architecture::kLlama || row.architecture == Architecture::kQwen3;
  const bool attention_bias =
      has_attention_bias && fields.FindBool("attention_bias").value_or(false);
  config.qkv_bias = row.qkv_bias || attention_bias;
  config.o_bias = attention_bias;
  config.mlp_bias =
      row.architecture == Architecture::kLlama && fields.FindBool("mlp_bias").value_or(false);
  config.qk_norm = row.qk_norm;

  config.rope = ParseRopeConfig(fields, config);
  config.layer_window = ReadWindows(fields, config);

  config.bos_token_id = TokenId(fields, "bos_token_id", row.bos_token_id);
  config.eos_token_ids = TokenIds(fields, "eos_token_id", row.eos_token_id);
  config.pad_token_id = TokenId(fields, "pad_token_id", row.pad_token_id);
  config.dtype = FindDType(fields);
  // The second is how compressed-tensors called it at first.
  for (const std::string_view key : {"quantization_config", "compression_config"}) {
    if (const auto quantization = fields.FindObject(key); quantization.has_value()) {
      config.quantization_config = quantization->json();
      break;
    }
  }
  return config;
}

ModelConfig LoadModelConfig(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  ModelConfig config = ParseModelConfig(ParseJsonFile(path, {}, kMaxConfigBytes), path.string());
  const std::filesystem::path producer = directory / "hf_quant_config.json";
  std::error_code error;
  if (config.quantization_config.is_null() && std::filesystem::exists(producer, error)) {
    const Json quantization = ParseJsonFile(producer, {}, kMaxConfigBytes);
    config.quantization_config = JsonFields(quantization, producer.string()).json();
  }
  return config;
}

GenerationConfig ParseGenerationConfig(const Json& json, std::string_view origin) {
  constexpr int64_t kMaxLength = std::numeric_limits<int32_t>::max();
  const JsonFields fields(json, origin);
  GenerationConfig config;
  config.bos_token_id = TokenId(fields, "bos_token_id", -1);
  config.eos_token_ids = TokenIds(fields, "eos_token_id", -1);
  config.pad_token_id = TokenId(fields, "pad_token_id", -1);
  config.do_sample = fields.FindBool("do_sample");
  config.temperature = fields.FindNumber("temperature", 0.0, 100.0);
  config.top_p = fields.FindNumber("top_p", 0.0, 1.0);
  config.top_k = fields.FindInt("top_k", -1, kMaxLength);
  if (config.top_k == -1) {
    config.top_k = 0;  // two spellings of "no limit"
  }
  config.min_p = fields.FindNumber("min_p", 0.0, 1.0);
  config.repetition_penalty = fields.FindNumber("repetition_penalty", 1e-6, 1e6);
  config.max_length = fields.FindInt("max_length", 0, kMaxLength);
  config.max_new_tokens = fields.FindInt("max_new_tokens", 0, kMaxLength);
  return config;
}

GenerationConfig LoadGenerationConfig(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "generation_config.json";
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return GenerationConfig{};
  }
  return ParseGenerationConfig(ParseJsonFile(path, {}, kMaxConfigBytes), path.string());
}

}  // namespace dualfp
