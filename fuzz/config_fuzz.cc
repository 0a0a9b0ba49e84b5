// config.json and generation_config.json: what is accepted must be usable without further checks.

#include "dualfp/io/hf_config.h"
#include "dualfp/io/json.h"
#include "fuzz/fuzz.h"

using dualfp::Json;
using dualfp::ModelConfig;
using dualfp::fuzz::ExpectOnlyInputErrors;
using dualfp::fuzz::Require;

namespace {

bool ProductFits(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors) {
    if (__builtin_mul_overflow(product, factor, &product)) {
      return false;
    }
  }
  return true;
}

void CheckPromises(const ModelConfig& config) {
  const int64_t layers = config.num_hidden_layers;
  Require(config.vocab_size > 0 && config.hidden_size > 0 && config.intermediate_size > 0 &&
              layers > 0 && config.num_attention_heads > 0 && config.num_key_value_heads > 0 &&
              config.head_dim > 0 && config.max_position_embeddings > 0,
          "positive sizes");
  Require(config.num_attention_heads % config.num_key_value_heads == 0, "whole head groups");
  Require(ProductFits({8, layers, config.max_position_embeddings, config.num_key_value_heads,
                       config.head_dim}),
          "a key-value cache whose size fits in 63 bits");
  Require(ProductFits({16, layers, config.hidden_size, config.intermediate_size}) &&
              ProductFits(
                  {16, layers, config.hidden_size, config.num_attention_heads, config.head_dim}) &&
              ProductFits({8, config.vocab_size, config.hidden_size}),
          "weights whose size fits in 63 bits");
  Require(config.layer_window.size() == static_cast<size_t>(layers), "a window for each layer");
  for (const int64_t window : config.layer_window) {
    Require(window >= 0, "windows of at least 0");
  }
  const dualfp::RopeConfig& rope = config.rope;
  Require(rope.rotary_dim >= 2 && rope.rotary_dim % 2 == 0 && rope.rotary_dim <= config.head_dim,
          "an even rotary_dim within the head");
  Require(rope.theta > 1 && rope.factor > 0 && rope.original_max_position_embeddings > 0,
          "RoPE parameters that can be divided by");
  if (rope.type == dualfp::RopeType::kLongRope) {
    Require(rope.short_factor.size() == static_cast<size_t>(rope.rotary_dim / 2) &&
                rope.long_factor.size() == rope.short_factor.size(),
            "a factor for each pair of dimensions");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ExpectOnlyInputErrors([&] {
    const Json json = dualfp::ParseJson(dualfp::fuzz::AsText(data, size), "config.json");
    ExpectOnlyInputErrors([&] { dualfp::ParseGenerationConfig(json, "generation_config.json"); });
    CheckPromises(dualfp::ParseModelConfig(json, "config.json"));
  });
  return 0;
}
