// Which precision each layer of a step computes at.

#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "dualfp/tensor/quant_format.h"

namespace dualfp {

// The linear layers of a decoder layer, in the order of LayerWeights::linears().
enum class LinearKind : uint8_t { kQkv, kO, kGateUp, kDown };
inline constexpr int64_t kLinearsPerLayer = 4;

// "qkv", "o", "gate_up", "down".
constexpr std::string_view LinearKindName(LinearKind kind) {
  constexpr std::string_view kNames[] = {"qkv", "o", "gate_up", "down"};
  return kNames[static_cast<int>(kind)];
}

// One entry per layer and one for lm_head. A layer whose weight does not offer the precision (a
// plain one asked for FP8) computes at FP16; Decoder::CostOf() and the load report say which.
struct PrecisionPlan {
  std::vector<Precision> layers;
  Precision lm_head = Precision::kExact;
  // Where one entry per layer is too coarse (sensitivity measurements): kLinearsPerLayer entries
  // for each layer, which then decide instead of `layers`. Empty otherwise.
  std::vector<Precision> linears;

  Precision At(int64_t layer, LinearKind kind) const {
    return linears.empty() ? layers[layer]
                           : linears[layer * kLinearsPerLayer + static_cast<int64_t>(kind)];
  }

  static PrecisionPlan Uniform(int64_t num_layers, Precision precision) {
    return {std::vector<Precision>(num_layers, precision), precision, {}};
  }

  friend bool operator==(const PrecisionPlan&, const PrecisionPlan&) = default;
};

}  // namespace dualfp
