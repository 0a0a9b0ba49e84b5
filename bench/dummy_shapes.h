// config.json of models of about a billion parameters, for benchmarks on random weights.

#pragma once

#include <string>

#include "dualfp/io/hf_config.h"

namespace dualfp {

// The shape of Llama-3.2-1B: 21 % of its bytes are the lm_head.
inline constexpr const char* kLlama32 = R"({"architectures": ["LlamaForCausalLM"],
  "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
  "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
  "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
  "tie_word_embeddings": true})";

// TinyLlama's: 22 layers of 2048 with a vocabulary of 32000.
inline constexpr const char* kTinyLlama = R"({"architectures": ["LlamaForCausalLM"],
  "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
  "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048,
  "rms_norm_eps": 1e-5, "tie_word_embeddings": false})";

}  // namespace dualfp
