// Which precision each layer of a step computes at.

#pragma once

#include <cstdint>
#include <vector>

#include "dualfp/tensor/quant_format.h"

namespace dualfp {

// One entry per layer and one for lm_head. A layer whose weight does not offer the precision (a
// plain one asked for FP8) computes at FP16; Decoder::CostOf() and the load report say which.
struct PrecisionPlan {
  std::vector<Precision> layers;
  Precision lm_head = Precision::kFp16;

  static PrecisionPlan Uniform(int64_t num_layers, Precision precision) {
    return {std::vector<Precision>(num_layers, precision), precision};
  }

  friend bool operator==(const PrecisionPlan&, const PrecisionPlan&) = default;
};

}  // namespace dualfp
