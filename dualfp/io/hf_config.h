// config.json and generation_config.json of Hugging Face checkpoints.
//
// Fields and defaults are those of transformers, except that the sizes (vocab_size, hidden_size,
// intermediate_size, num_hidden_layers, num_attention_heads) must be present. Both spellings of
// RoPE are read: rope_theta with rope_scaling as on the hub, and rope_parameters as transformers 5
// writes. Every field is checked for type, range and consistency; errors name the file and the
// field: kInvalidFile for a broken value, kUnsupported for an architecture, activation, RoPE type
// or other option that dualfp has no code for. What cannot change the result, or is used in spite
// of being unusual, is a warning in the log, as in transformers. Bounds are such that the size of a
// whole model, and of its key-value cache at full context, fits in 63 bits.

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/tensor/dtype.h"

namespace dualfp {

enum class Architecture : uint8_t { kLlama, kMistral, kPhi3, kQwen2, kQwen3 };

// "LlamaForCausalLM", ...: the name in config.json.
std::string_view ArchitectureName(Architecture architecture);

enum class HiddenActivation : uint8_t { kSilu };

enum class RopeType : uint8_t { kDefault, kLinear, kDynamic, kLlama3, kYarn, kLongRope };

std::string_view RopeTypeName(RopeType type);

// Fields that a type does not use keep their defaults here.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;  // > 1
  int64_t rotary_dim = 0;  // head_dim * partial_rotary_factor: the leading dimensions that rotate

  // linear, dynamic, llama3, yarn, longrope; above 0, seldom below 1. Where yarn and longrope do
  // not state it: the ratio of max_position_embeddings and original_max_position_embeddings, which
  // may be below 1.
  double factor = 1.0;

  // Context length of pre-training. llama3, yarn, longrope: as stated; others, and where it is not
  // stated: max_position_embeddings.
  int64_t original_max_position_embeddings = 0;

  // llama3
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;

  // yarn, longrope: multiplies cos and sin; absent = derived from factor (and yarn's mscale).
  std::optional<double> attention_factor;

  // yarn
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  std::optional<double> mscale;  // never 0
  std::optional<double> mscale_all_dim;
  bool truncate = true;  // round the correction range to whole dimensions

  // longrope: rotary_dim / 2 each; the long ones count once a sequence is longer than
  // original_max_position_embeddings.
  std::vector<double> short_factor;
  std::vector<double> long_factor;
};

struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  // divides num_attention_heads
  int64_t head_dim = 0;             // even
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  HiddenActivation hidden_act = HiddenActivation::kSilu;
  bool tie_word_embeddings = false;

  bool qkv_bias = false;
  bool o_bias = false;  // attention output projection
  bool mlp_bias = false;
  bool qk_norm = false;  // RMSNorm over each head of q and k, before RoPE

  RopeConfig rope;

  // Attention window in tokens of each layer, the current token included; 0 = all tokens.
  // num_hidden_layers entries.
  std::vector<int64_t> layer_window;

  // May lie outside the vocabulary, as in some published models; such an id never occurs.
  std::optional<int32_t> bos_token_id;
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> pad_token_id;

  // torch_dtype or dtype: F32, F16 or BF16; nothing for "auto" and others. Tensors have their own.
  std::optional<DType> dtype;
  // As in the file, null when absent (quantization_config.h). LoadModelConfig() takes ModelOpt's
  // hf_quant_config.json where config.json has none.
  Json quantization_config;
};

ModelConfig ParseModelConfig(const Json& config, std::string_view origin);
// DIRECTORY/config.json. Throws kNotFound when there is none.
ModelConfig LoadModelConfig(const std::filesystem::path& directory);

// Sampling defaults that a model's publisher recommends; absent = not stated.
struct GenerationConfig {
  std::optional<int32_t> bos_token_id;
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> pad_token_id;
  std::optional<bool> do_sample;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<int64_t> max_length;
  std::optional<int64_t> max_new_tokens;
};

GenerationConfig ParseGenerationConfig(const Json& config, std::string_view origin);
// DIRECTORY/generation_config.json; all absent when there is no such file.
GenerationConfig LoadGenerationConfig(const std::filesystem::path& directory);

}  // namespace dualfp
