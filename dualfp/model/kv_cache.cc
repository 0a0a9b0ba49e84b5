#include "dualfp/model/kv_cache.h"

#include <utility>

#include "dualfp/base/check.h"

namespace dualfp {

int64_t KvCacheConfig::BytesPerBlock() const {
  return 2 * num_layers * num_kv_heads * head_dim * kKvBlockSize * DTypeSize(dtype);
}

std::optional<DType> ParseKvCacheDType(std::string_view name) {
  if (name == "fp32") {
    return DType::kF32;
  }
  if (name == "fp16") {
    return DType::kF16;
  }
  if (name == "fp8") {
    return DType::kF8E4M3;
  }
  return std::nullopt;
}

KvCache::KvCache(KvCacheConfig config) : config_(std::move(config)) {
  Check(config_.dtype == DType::kF32 || config_.dtype == DType::kF16 ||
            config_.dtype == DType::kF8E4M3,
        ErrorCode::kUnsupported, "a key-value cache of ", DTypeName(config_.dtype),
        "; expected F32, F16 or F8_E4M3");
  Check(config_.scales.empty() || static_cast<int64_t>(config_.scales.size()) == config_.num_layers,
        ErrorCode::kInvalidArgument, "key-value cache scales for ", config_.scales.size(),
        " layers, expected ", config_.num_layers);
  buffer_ = Buffer::AllocateCpu(static_cast<size_t>(config_.BytesPerBlock()) *
                                static_cast<size_t>(config_.num_blocks));
  const int64_t plane = config_.num_blocks * config_.num_kv_heads * config_.head_dim *
                        kKvBlockSize * DTypeSize(config_.dtype);
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    PagedKv kv;
    kv.key = buffer_.View(
        config_.dtype, {config_.num_blocks, config_.num_kv_heads, config_.head_dim, kKvBlockSize},
        2 * i * plane);
    kv.value = buffer_.View(
        config_.dtype, {config_.num_blocks, config_.num_kv_heads, kKvBlockSize, config_.head_dim},
        (2 * i + 1) * plane);
    if (config_.dtype == DType::kF8E4M3 && !config_.scales.empty()) {
      kv.key_scale = config_.scales[i].key;
      kv.value_scale = config_.scales[i].value;
    }
    layers_.push_back(kv);
  }
}

}  // namespace dualfp
