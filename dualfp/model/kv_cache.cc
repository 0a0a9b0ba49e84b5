#include "dualfp/model/kv_cache.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/kernels/device.h"

namespace dualfp {
namespace {

// The keys, or the values, of so many blocks of a layer.
int64_t PlaneBytes(const KvCacheConfig& config, int64_t blocks) {
  return blocks * config.num_kv_heads * kKvBlockSize * config.head_dim * DTypeSize(config.dtype);
}

}  // namespace

int64_t KvCacheConfig::BytesPerBlock() const { return 2 * num_layers * PlaneBytes(*this, 1); }

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
  const std::span<const DType> known = KvDTypesOf(config_.device.type);
  Check(std::ranges::find(known, config_.dtype) != known.end(), ErrorCode::kUnsupported,
        "a key-value cache of ", DTypeName(config_.dtype), " on ", DeviceName(config_.device));
  Check(config_.scales.empty() || static_cast<int64_t>(config_.scales.size()) == config_.num_layers,
        ErrorCode::kInvalidArgument, "key-value cache scales for ", config_.scales.size(),
        " layers, expected ", config_.num_layers);
  const KvLayout& layout = KvLayoutOf(config_.device.type);
  const auto key = layout.KeyShape(config_.num_blocks, config_.num_kv_heads, config_.head_dim);
  const auto value = layout.ValueShape(config_.num_blocks, config_.num_kv_heads, config_.head_dim);
  const int64_t plane = PlaneBytes(config_, config_.num_blocks);
  buffer_ = Allocate(config_.device, 2 * config_.num_layers * plane);
  if (config_.device.type != DeviceType::kCpu) {
    // What was never written is multiplied by weights of zero, so it must be finite.
    const std::unique_ptr<Stream> stream = MakeStream(config_.device, StreamUse::kCopies);
    stream->Fill(buffer_.data(), 0, buffer_.size());
    stream->Synchronize();
  }
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    char* data = static_cast<char*>(buffer_.data()) + 2 * i * plane;
    PagedKv kv;
    kv.key = TensorView(data, config_.dtype, key, config_.device);
    kv.value = TensorView(data + plane, config_.dtype, value, config_.device);
    if (config_.dtype == DType::kF8E4M3 && !config_.scales.empty()) {
      kv.key_scale = config_.scales[i].key;
      kv.value_scale = config_.scales[i].value;
    }
    layers_.push_back(kv);
  }
}

}  // namespace dualfp
