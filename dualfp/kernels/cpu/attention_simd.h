// Paged attention for one vector type; the layout of a block is in kernels/attention.h.
//
// A work item is one kv head of a few consecutive tokens of one sequence: its rows are those
// tokens times the query heads that share the kv head, so every key and value loaded serves them
// all. Keys are walked in tiles of kTileKeys at absolute positions. A score is one chain of fused
// multiply-adds over head_dim and a tile's update is the same whatever rows lie beside it, which
// makes a row's result independent of batch and chunking.

#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "dualfp/kernels/cpu/attention_plan.h"
#include "dualfp/kernels/cpu/simd.h"
#include "dualfp/kernels/op_table.h"
#include "dualfp/kernels/parallel.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp::cpu {

inline constexpr int kTileBlocks = 4;
inline constexpr int kTileKeys = kTileBlocks * kKvBlockSize;

DUALFP_INLINE int64_t MinOf(int64_t a, int64_t b) { return a < b ? a : b; }
DUALFP_INLINE int64_t MaxOf(int64_t a, int64_t b) { return a > b ? a : b; }

// How a cache element becomes a float; kLoadScale undoes what Load leaves out.
struct CacheF32 {
  using Element = float;
  static constexpr float kLoadScale = 1.0f;
  template <typename V>
  DUALFP_INLINE static V Load(const Element* p) {
    return V::Load(p);
  }
  DUALFP_INLINE static float LoadOne(Element x) { return x; }
};

struct CacheF16 {
  using Element = uint16_t;
  static constexpr float kLoadScale = 1.0f;
  template <typename V>
  DUALFP_INLINE static V Load(const Element* p) {
    return V::LoadF16(p);
  }
  DUALFP_INLINE static float LoadOne(Element x) { return Fp16ToFloat(x); }
};

struct CacheE4m3 {
  using Element = uint8_t;
  static constexpr float kLoadScale = 256.0f;
  template <typename V>
  DUALFP_INLINE static V Load(const Element* p) {
    return V::LoadE4m3Over256(p);
  }
  DUALFP_INLINE static float LoadOne(Element x) { return E4m3ToFloat(x) / 256; }
};

// Scores of kRows rows against kBlocks blocks: score[r, 16 * b + lane], rows kTileKeys apart.
// key[b] is [head_dim, 16].
template <typename V, typename Cache, int kRows, int kBlocks>
DUALFP_INLINE void ScoreTile(const float* const* query, const typename Cache::Element* const* key,
                             int64_t head_dim, float* score) {
  constexpr int kVectors = kBlocks * kKvBlockSize / V::kLanes;
  constexpr int kPerBlock = kKvBlockSize / V::kLanes;
  V sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = V::Zero();
    }
  }
  for (int64_t d = 0; d < head_dim; ++d) {
    V keys[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      keys[v] = Cache::template Load<V>(key[v / kPerBlock] + d * kKvBlockSize +
                                        v % kPerBlock * V::kLanes);
    }
    for (int r = 0; r < kRows; ++r) {
      const V q = V::Broadcast(query[r][d]);
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = q.MulAdd(keys[v], sums[r][v]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v].Store(score + r * kTileKeys + v * V::kLanes);
    }
  }
}

// out[r][d] += sum over keys [first, last) of weight[r, key] * value[key][d]; rows of weights lie
// kTileKeys apart.
// value[b] is [16, head_dim].
template <typename V, typename Cache, int kRows>
DUALFP_INLINE void AddValues(const float* weight, const typename Cache::Element* const* value,
                             int64_t first, int64_t last, int64_t head_dim, float* const* out) {
  constexpr int kVectors = 4;
  int64_t d = 0;
  for (; d + kVectors * V::kLanes <= head_dim; d += kVectors * V::kLanes) {
    V sums[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = V::Load(out[r] + d + v * V::kLanes);
      }
    }
    for (int64_t j = first; j < last; ++j) {
      const auto* row = value[j / kKvBlockSize] + j % kKvBlockSize * head_dim + d;
      V values[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        values[v] = Cache::template Load<V>(row + v * V::kLanes);
      }
      for (int r = 0; r < kRows; ++r) {
        const V w = V::Broadcast(weight[r * kTileKeys + j]);
        for (int v = 0; v < kVectors; ++v) {
          sums[r][v] = w.MulAdd(values[v], sums[r][v]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v].Store(out[r] + d + v * V::kLanes);
      }
    }
  }
  for (; d + V::kLanes <= head_dim; d += V::kLanes) {
    for (int r = 0; r < kRows; ++r) {
      V sum = V::Load(out[r] + d);
      for (int64_t j = first; j < last; ++j) {
        sum = V::Broadcast(weight[r * kTileKeys + j])
                  .MulAdd(Cache::template Load<V>(value[j / kKvBlockSize] +
                                                  j % kKvBlockSize * head_dim + d),
                          sum);
      }
      sum.Store(out[r] + d);
    }
  }
  for (; d < head_dim; ++d) {
    for (int r = 0; r < kRows; ++r) {
      for (int64_t j = first; j < last; ++j) {
        out[r][d] += weight[r * kTileKeys + j] *
                     Cache::LoadOne(value[j / kKvBlockSize][j % kKvBlockSize * head_dim + d]);
      }
    }
  }
}

// One row's softmax so far: weights relative to exp(largest), their sum, and the weighted values.
struct RowState {
  float largest;
  float sum;
};

// Turns a row's scores of a tile into weights, of which only [first, last) are visible, and
// rescales what the row has so far. Returns false when the row sees nothing of this tile.
template <typename V>
DUALFP_INLINE bool UpdateRow(float* score, int64_t first, int64_t last, int64_t head_dim,
                             RowState* state, float* out) {
  if (first >= last) {
    for (int i = 0; i < kTileKeys; i += V::kLanes) {
      V::Zero().Store(score + i);
    }
    return false;
  }
  for (int64_t j = 0; j < first; ++j) {
    score[j] = -INFINITY;
  }
  for (int64_t j = last; j < kTileKeys; ++j) {
    score[j] = -INFINITY;
  }
  V tile_largest = V::Load(score);
  for (int i = V::kLanes; i < kTileKeys; i += V::kLanes) {
    tile_largest = V::Max(tile_largest, V::Load(score + i));
  }
  const float new_largest = [&] {
    const float value = tile_largest.Largest();
    return value > state->largest ? value : state->largest;
  }();
  const V shift = V::Broadcast(new_largest);
  V sum = V::Zero();
  for (int i = 0; i < kTileKeys; i += V::kLanes) {
    const V weight = Exp(V::Load(score + i) - shift);
    weight.Store(score + i);
    sum = sum + weight;
  }
  if (new_largest > state->largest) {
    // exp(-inf) = 0 at the first tile.
    float lanes[V::kLanes];
    Exp(V::Broadcast(state->largest) - shift).Store(lanes);
    const V keep = V::Broadcast(lanes[0]);
    state->sum *= lanes[0];
    state->largest = new_largest;
    int64_t d = 0;
    for (; d + V::kLanes <= head_dim; d += V::kLanes) {
      (V::Load(out + d) * keep).Store(out + d);
    }
    for (; d < head_dim; ++d) {
      out[d] *= lanes[0];
    }
  }
  state->sum += sum.Sum();
  return true;
}

// Calls f with a compile-time row count for each group of up to four rows.
template <typename F>
DUALFP_INLINE void ForRowGroups(int rows, const F& f) {
  int r = 0;
  for (; r + 4 <= rows; r += 4) {
    f(r, std::integral_constant<int, 4>());
  }
  if (rows - r == 3) {
    f(r, std::integral_constant<int, 3>());
  } else if (rows - r == 2) {
    f(r, std::integral_constant<int, 2>());
  } else if (rows - r == 1) {
    f(r, std::integral_constant<int, 1>());
  }
}

template <typename V, typename Cache>
void AttendItem(const PagedAttentionArgs& args, int64_t sequence, int64_t row_begin,
                int64_t row_end, int64_t kv_head) {
  using Element = typename Cache::Element;
  const int64_t head_dim = args.query.shape[2];
  const int64_t kv_heads = args.cache.key.shape[1];
  const int64_t group = args.query.shape[1] / kv_heads;
  const int32_t* blocks = args.block_table.as<int32_t>() + sequence * args.block_table.strides[0];
  const int64_t tile_elements = kKvBlockSize * head_dim;
  const int64_t sequence_end = args.query_start.as<int32_t>()[sequence + 1];
  const int64_t context_length = args.context_length.as<int32_t>()[sequence];
  const auto position = [&](int64_t row) { return context_length - (sequence_end - row); };
  const auto window_begin = [&](int64_t row) {
    return args.sliding_window > 0 ? MaxOf(0, position(row) - args.sliding_window + 1) : 0;
  };
  const float query_scale = args.scale *
                            KvHeadScale(args.cache.key_scale, args.cache.key_head_scales, kv_head) *
                            Cache::kLoadScale;
  const float value_scale =
      KvHeadScale(args.cache.value_scale, args.cache.value_head_scales, kv_head) *
      Cache::kLoadScale;

  // The head groups of one token may be more rows than an item holds.
  const int64_t total_rows = (row_end - row_begin) * group;
  for (int64_t base = 0; base < total_rows; base += kMaxItemRows) {
    const int rows = static_cast<int>(MinOf(kMaxItemRows, total_rows - base));
    // Rows one cache line further apart than they need, lest a power of two maps them all onto
    // the same few cache sets.
    alignas(64) float query[kMaxItemRows * (kMaxHeadDim + 16)];
    alignas(64) float out[kMaxItemRows * (kMaxHeadDim + 16)];
    alignas(64) float score[kMaxItemRows * kTileKeys];
    const int64_t row_stride = head_dim + 16;
    const float* query_rows[kMaxItemRows];
    float* out_rows[kMaxItemRows];
    RowState state[kMaxItemRows];
    const auto token = [&](int r) { return row_begin + (base + r) / group; };
    const auto head = [&](int r) { return kv_head * group + (base + r) % group; };
    for (int r = 0; r < rows; ++r) {
      const float* source = args.query.as<float>() + token(r) * args.query.strides[0] +
                            head(r) * args.query.strides[1];
      float* scaled = query + r * row_stride;
      for (int64_t d = 0; d < head_dim; ++d) {
        scaled[d] = source[d] * query_scale;
      }
      query_rows[r] = scaled;
      out_rows[r] = out + r * row_stride;
      std::memset(out_rows[r], 0, sizeof(float) * head_dim);
      state[r] = {-INFINITY, 0.0f};
    }

    const int64_t last_key = position(token(rows - 1)) + 1;
    for (int64_t tile = window_begin(token(0)) / kTileKeys * kTileKeys; tile < last_key;
         tile += kTileKeys) {
      const int tile_blocks =
          static_cast<int>(MinOf(kTileBlocks, (last_key - tile + kKvBlockSize - 1) / kKvBlockSize));
      const Element* keys[kTileBlocks];
      const Element* values[kTileBlocks];
      for (int b = 0; b < tile_blocks; ++b) {
        const int64_t offset =
            (blocks[tile / kKvBlockSize + b] * kv_heads + kv_head) * tile_elements;
        keys[b] = args.cache.key.as<Element>() + offset;
        values[b] = args.cache.value.as<Element>() + offset;
      }
      ForRowGroups(rows, [&](int r, auto count) {
        // A vector of 16 leaves registers for all four blocks at once, one of 8 for one block;
        // a single row needs several blocks to keep the multipliers busy.
        constexpr int kBlocks = V::kLanes == 16 || count() == 1 ? kTileBlocks : 1;
        int b = 0;
        if (tile_blocks == kTileBlocks) {
          for (; b < kTileBlocks; b += kBlocks) {
            ScoreTile<V, Cache, count(), kBlocks>(query_rows + r, keys + b, head_dim,
                                                  score + r * kTileKeys + b * kKvBlockSize);
          }
        }
        for (; b < tile_blocks; ++b) {
          ScoreTile<V, Cache, count(), 1>(query_rows + r, keys + b, head_dim,
                                          score + r * kTileKeys + b * kKvBlockSize);
        }
      });
      int64_t first_visible[kMaxItemRows];
      int64_t last_visible[kMaxItemRows];
      for (int r = 0; r < rows; ++r) {
        first_visible[r] = MaxOf(0, window_begin(token(r)) - tile);
        last_visible[r] = MinOf(kTileKeys, position(token(r)) + 1 - tile);
        if (!UpdateRow<V>(score + r * kTileKeys, first_visible[r], last_visible[r], head_dim,
                          &state[r], out_rows[r])) {
          first_visible[r] = kTileKeys;
          last_visible[r] = 0;
        }
      }
      ForRowGroups(rows, [&](int r, auto count) {
        int64_t first = kTileKeys;
        int64_t last = 0;
        for (int i = r; i < r + count(); ++i) {
          first = MinOf(first, first_visible[i]);
          last = MaxOf(last, last_visible[i]);
        }
        AddValues<V, Cache, count()>(score + r * kTileKeys, values, first, last, head_dim,
                                     out_rows + r);
      });
    }

    for (int r = 0; r < rows; ++r) {
      float* target =
          args.out.as<float>() + token(r) * args.out.strides[0] + head(r) * args.out.strides[1];
      const float scale = value_scale / state[r].sum;
      for (int64_t d = 0; d < head_dim; ++d) {
        target[d] = out_rows[r][d] * scale;
      }
    }
  }
}

template <typename V, typename Cache>
void AttendAll(const Context& context, const PagedAttentionArgs& args, const AttentionPlan& plan) {
  const int64_t kv_heads = args.cache.key.shape[1];
  const AttentionItem* items = plan.items.data();
  ParallelRows(context, static_cast<int64_t>(plan.items.size()) * kv_heads, 1, 1,
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const AttentionItem& item = items[i / kv_heads];
                   AttendItem<V, Cache>(args, item.sequence, item.row_begin, item.row_end,
                                        i % kv_heads);
                 }
               });
}

template <typename V>
void PagedAttention(const Context& context, const PagedAttentionArgs& args,
                    const AttentionPlan& plan) {
  switch (args.cache.key.dtype) {
    case DType::kF16:
      return AttendAll<V, CacheF16>(context, args, plan);
    case DType::kF8E4M3:
      return AttendAll<V, CacheE4m3>(context, args, plan);
    default:
      return AttendAll<V, CacheF32>(context, args, plan);
  }
}

}  // namespace dualfp::cpu
