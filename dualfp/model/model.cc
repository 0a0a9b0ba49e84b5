#include "dualfp/model/model.h"

#include <algorithm>

namespace dualfp {

int64_t LoadReport::LayerLinears() const {
  return std::count_if(linears.begin(), linears.end(),
                       [](const LinearReport& linear) { return linear.in_layer; });
}

int64_t LoadReport::NestedLayerLinears() const {
  return std::count_if(linears.begin(), linears.end(), [](const LinearReport& linear) {
    return linear.in_layer && (linear.scheme.format == QuantFormat::kNested ||
                               linear.scheme.format == QuantFormat::kNested12);
  });
}

int64_t LoadReport::Fp8LayerLinears() const {
  return std::count_if(linears.begin(), linears.end(), [](const LinearReport& linear) {
    return linear.in_layer && Offers(GetQuantFormatInfo(linear.scheme.format), Precision::kFp8);
  });
}

bool Model::HeadComputesAt(Precision precision) const {
  return (precision == Precision::kExact || fp8_lm_head) &&
         lm_head.weight.Unsupported(precision).empty();
}

KvCacheConfig Model::KvCacheFor(DType dtype, int64_t num_blocks) const {
  KvCacheConfig cache{.dtype = dtype,
                      .num_layers = config.num_hidden_layers,
                      .num_kv_heads = kv_heads(),
                      .head_dim = config.head_dim,
                      .num_blocks = num_blocks};
  for (const LayerWeights& layer : layers) {
    cache.scales.push_back(layer.kv_scales);
  }
  return cache;
}

}  // namespace dualfp
