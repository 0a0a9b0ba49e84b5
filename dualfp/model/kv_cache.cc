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

// Layer by layer, keys' and then values', num_kv_heads places each.
std::vector<float> AllScales(const KvCacheConfig& config) {
  const int64_t heads = config.num_kv_heads;
  std::vector<float> all(2 * config.num_layers * heads);
  auto to = all.begin();
  for (const KvScales& layer : config.scales) {
    for (const std::vector<float>* scales : {&layer.key, &layer.value}) {
      const auto count = static_cast<int64_t>(scales->size());
      Check(count <= 1 || count == heads, ErrorCode::kInvalidArgument, count,
            " scales of cached keys or values, expected 1 or ", heads);
      std::copy(scales->begin(), scales->end(), to);
      to += heads;
    }
  }
  return all;
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
  const bool scaled = config_.dtype == DType::kF8E4M3 && !config_.scales.empty();
  if (scaled) {
    const std::vector<float> scales = AllScales(config_);
    scales_ = Allocate(config_.device, scales.size() * sizeof(float));
    const std::unique_ptr<Stream> stream = MakeStream(config_.device, StreamUse::kCopies);
    stream->Copy(scales_.data(), scales.data(), scales.size() * sizeof(float));
    stream->Synchronize();
  }
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    char* data = static_cast<char*>(buffer_.data()) + 2 * i * plane;
    PagedKv kv;
    kv.key = TensorView(data, config_.dtype, key, config_.device);
    kv.value = TensorView(data + plane, config_.dtype, value, config_.device);
    if (scaled) {
      const auto set = [&](const std::vector<float>& scales, int64_t place, float* all,
                           ConstTensorView* heads) {
        if (scales.size() == 1) {
          *all = scales[0];
        } else if (!scales.empty()) {
          const int64_t count = config_.num_kv_heads;
          *heads = ConstTensorView(static_cast<float*>(scales_.data()) + place * count, DType::kF32,
                                   {count}, config_.device);
        }
      };
      set(config_.scales[i].key, 2 * i, &kv.key_scale, &kv.key_head_scales);
      set(config_.scales[i].value, 2 * i + 1, &kv.value_scale, &kv.value_head_scales);
    }
    layers_.push_back(kv);
  }
}

}  // namespace dualfp
