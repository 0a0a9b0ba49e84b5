// A precision for each decoder layer: what a step runs at. Embedding and lm_head are not layers and
// keep the precision they are stored in.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dualfp/engine/request.h"
#include "dualfp/tensor/quant_format.h"

namespace dualfp {

class PrecisionPlan {
 public:
  PrecisionPlan() = default;
  explicit PrecisionPlan(std::vector<Precision> layers) : layers_(std::move(layers)) {}
  static PrecisionPlan Uniform(int num_layers, Precision precision) {
    return PrecisionPlan(std::vector<Precision>(num_layers, precision));
  }

  int num_layers() const { return static_cast<int>(layers_.size()); }
  Precision operator[](int layer) const { return layers_[layer]; }
  void Set(int layer, Precision precision) { layers_[layer] = precision; }
  void SetAll(Precision precision);
  const std::vector<Precision>& layers() const { return layers_; }

  int Count(Precision precision) const;
  PrecisionClass Class() const;

  // Equal plans have equal tags, and different plans different ones (64-bit hash). Never 0. Part of
  // a KV block's prefix-cache key.
  uint64_t Tag() const;

  friend bool operator==(const PrecisionPlan&, const PrecisionPlan&) = default;

 private:
  std::vector<Precision> layers_;
};

// "fp16", "fp8", or "fp8 in 12 of 32 layers": for logs.
std::string Describe(const PrecisionPlan& plan);

}  // namespace dualfp
