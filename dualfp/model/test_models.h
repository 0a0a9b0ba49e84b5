// A small configuration with random weights, for the unit tests of this folder.

#pragma once

#include <string>

#include "dualfp/io/hf_config.h"
#include "dualfp/io/json.h"

namespace dualfp {

inline ModelConfig SmallConfig(const std::string& changes = "{}") {
  Json config = ParseJson(R"({
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
    "vocab_size": 80, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 200,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": false})",
                          "small");
  config.update(ParseJson(changes, "changes"));
  return ParseModelConfig(config, "config.json");
}

}  // namespace dualfp
