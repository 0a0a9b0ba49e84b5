// Which tensors of a checkpoint are the weights of linear layers, by their names and shapes alone,
// so that architectures that the engine cannot run are quantized too; and which of those stay as
// they are.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/io/safetensors_header.h"

namespace dualfp {

struct LinearTensor {
  std::string module;    // "model.layers.0.mlp.down_proj": the name without ".weight"
  int64_t matrices = 1;  // more than 1: the experts of a layer in one tensor
  int64_t n = 0;         // rows of each
  int64_t k = 0;
  bool fused_experts = false;  // a tensor [experts, n, k] without ".weight" in its name

  // "MODULE.weight_scale", or "MODULE_scale" of fused experts.
  std::string Sibling(std::string_view weight_suffix) const;
};

// Nothing for a tensor that is no matrix of F32, F16 or BF16 named *.weight nor fused experts, and
// for embedding tables, which are matrices but not linear.
std::optional<LinearTensor> AsLinear(const TensorEntry& entry);

// Whether the layer stays in 16 bits unless asked for: lm_head and the routers of experts, which
// decide about whole tokens, as all producers keep them.
bool KeptByDefault(std::string_view module);

}  // namespace dualfp
