#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "dualfp/kernels/parallel.h"
#include "dualfp/kernels/reference/ops.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp::reference {
namespace {

float Load(const ConstTensorView& cache, int64_t index) {
  switch (cache.dtype) {
    case DType::kF16:
      return Fp16ToFloat(cache.as<uint16_t>()[index]);
    case DType::kF8E4M3:
      return E4m3ToFloat(cache.as<uint8_t>()[index]);
    default:
      return cache.as<float>()[index];
  }
}

void Store(const TensorView& cache, int64_t index, float value, float scale) {
  switch (cache.dtype) {
    case DType::kF16:
      // NaN stays NaN: both comparisons are false.
      value = value > kFp16Max ? kFp16Max : value < -kFp16Max ? -kFp16Max : value;
      cache.as<uint16_t>()[index] = FloatToFp16(value);
      break;
    case DType::kF8E4M3:
      cache.as<uint8_t>()[index] = FloatToE4m3(value / scale);
      break;
    default:
      cache.as<float>()[index] = value;
  }
}

}  // namespace

void WriteKvCache(const Context& context, const WriteKvCacheArgs& args) {
  const int64_t heads = args.key.shape[1];
  const int64_t width = args.key.shape[2];
  ParallelRows(context, args.key.shape[0], heads * width, 1 << 12, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const int64_t slot = args.slot.as<int32_t>()[token];
      if (slot < 0) {
        continue;
      }
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t tile = (slot / kKvBlockSize * heads + head) * kKvBlockSize * width;
        const int64_t place = slot % kKvBlockSize;
        const float key_scale = KvHeadScale(args.cache.key_scale, args.cache.key_head_scales, head);
        const float value_scale =
            KvHeadScale(args.cache.value_scale, args.cache.value_head_scales, head);
        const float* key =
            args.key.as<float>() + token * args.key.strides[0] + head * args.key.strides[1];
        const float* value =
            args.value.as<float>() + token * args.value.strides[0] + head * args.value.strides[1];
        for (int64_t i = 0; i < width; ++i) {
          Store(args.cache.key, tile + i * kKvBlockSize + place, key[i], key_scale);
          Store(args.cache.value, tile + place * width + i, value[i], value_scale);
        }
      }
    }
  });
}

void CopyKvBlocks(const Context&, const CopyKvBlocksArgs& args) {
  const int64_t bytes = args.planes.shape[2];
  for (int64_t plane = 0; plane < args.planes.shape[0]; ++plane) {
    auto* blocks = args.planes.as<char>() + plane * args.planes.strides[0];
    for (int64_t i = 0; i < args.copies.shape[0]; ++i) {
      const int32_t* copy = args.copies.as<int32_t>() + 2 * i;
      std::memcpy(blocks + copy[1] * bytes, blocks + copy[0] * bytes, bytes);
    }
  }
}

// One item is one sequence.
void PlanAttention(const AttentionShape&, std::span<const int32_t> query_start,
                   std::span<const int32_t> context_length, AttentionPlan* plan) {
  for (size_t s = 0; s < context_length.size(); ++s) {
    plan->items.push_back({static_cast<int32_t>(s), query_start[s], query_start[s + 1]});
  }
}

AttentionNeeds MostAttention(const AttentionShape&, const AttentionLimits& limits) {
  return {.items = limits.max_sequences};
}

void PagedAttention(const Context& context, const PagedAttentionArgs& args,
                    const AttentionPlan& plan) {
  const int64_t heads = args.query.shape[1];
  const int64_t width = args.query.shape[2];
  const int64_t kv_heads = args.cache.key.shape[1];
  const int32_t* query_start = args.query_start.as<int32_t>();
  const auto items = static_cast<int64_t>(plan.items.size());
  ParallelRows(context, items * heads, 1, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const AttentionItem& item = plan.items[i / heads];
      const int64_t sequence = item.sequence;
      const int64_t head = i % heads;
      const int64_t kv_head = head / (heads / kv_heads);
      const float key_scale =
          KvHeadScale(args.cache.key_scale, args.cache.key_head_scales, kv_head);
      const float value_scale =
          KvHeadScale(args.cache.value_scale, args.cache.value_head_scales, kv_head);
      const int32_t* blocks =
          args.block_table.as<int32_t>() + sequence * args.block_table.strides[0];
      const int64_t last_row = query_start[sequence + 1];
      for (int64_t row = item.row_begin; row < item.row_end; ++row) {
        const int64_t position = args.context_length.as<int32_t>()[sequence] - (last_row - row);
        const int64_t first =
            args.sliding_window > 0 ? std::max<int64_t>(0, position - args.sliding_window + 1) : 0;
        const float* query =
            args.query.as<float>() + row * args.query.strides[0] + head * args.query.strides[1];
        float* out = args.out.as<float>() + row * args.out.strides[0] + head * args.out.strides[1];
        std::fill(out, out + width, 0.0f);
        float largest = -std::numeric_limits<float>::infinity();
        float sum = 0;
        for (int64_t key = first; key <= position; ++key) {
          const int64_t tile =
              (blocks[key / kKvBlockSize] * kv_heads + kv_head) * kKvBlockSize * width;
          const int64_t place = key % kKvBlockSize;
          float dot = 0;
          for (int64_t d = 0; d < width; ++d) {
            dot += query[d] * Load(args.cache.key, tile + d * kKvBlockSize + place);
          }
          const float score = dot * args.scale * key_scale;
          const float new_largest = std::max(largest, score);
          const float keep = std::exp(largest - new_largest);
          const float weight = std::exp(score - new_largest);
          largest = new_largest;
          sum = sum * keep + weight;
          for (int64_t d = 0; d < width; ++d) {
            out[d] = out[d] * keep + weight * Load(args.cache.value, tile + place * width + d);
          }
        }
        for (int64_t d = 0; d < width; ++d) {
          out[d] = out[d] / sum * value_scale;
        }
      }
    }
  });
}

}  // namespace dualfp::reference
