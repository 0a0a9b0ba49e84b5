// The paged key-value cache of all layers: one allocation, handed out in blocks of kKvBlockSize
// tokens. Which block belongs to whom is the caller's business (block tables in a Step).

#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "dualfp/kernels/attention.h"
#include "dualfp/tensor/buffer.h"

namespace dualfp {

// What a cached value is divided by before it is rounded to FP8, of one layer (k_scale, v_scale of
// a checkpoint): one, or one for each kv head; empty = 1.
struct KvScales {
  std::vector<float> key;
  std::vector<float> value;
};

struct KvCacheConfig {
  DType dtype = DType::kF16;  // one of KvDTypesOf(device.type)
  int64_t num_layers = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t num_blocks = 0;
  std::vector<KvScales> scales;  // per layer; empty = all 1. Used by F8_E4M3 only
  Device device;                 // whose backend says how blocks lie

  int64_t BytesPerBlock() const;  // all layers, keys and values
};

// "fp32", "fp16", "fp8": the values of --kv-cache-dtype.
std::optional<DType> ParseKvCacheDType(std::string_view name);

// Blocks that hold `tokens` tokens.
constexpr int64_t KvBlocksFor(int64_t tokens) { return (tokens + kKvBlockSize - 1) / kKvBlockSize; }

class KvCache {
 public:
  // Throws kResourceExhausted when there is not enough memory, kUnsupported for another dtype.
  explicit KvCache(KvCacheConfig config);

  const KvCacheConfig& config() const { return config_; }
  int64_t num_bytes() const { return static_cast<int64_t>(buffer_.size()); }
  const PagedKv& layer(int64_t index) const { return layers_.at(index); }

 private:
  KvCacheConfig config_;
  Buffer buffer_;
  Buffer scales_;  // F32, layer by layer: keys' and then values', kv_heads places each
  std::vector<PagedKv> layers_;
};

}  // namespace dualfp
