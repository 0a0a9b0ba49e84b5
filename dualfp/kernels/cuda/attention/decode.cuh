// Decodes: keys and values of whole blocks of the cache go from global memory straight into the
// fragments of tensor cores. A warp takes kPages blocks at a time, S^T = K Q^T and O^T = V^T P^T,
// with the next ones on their way; warps, then the pieces of a context, are merged in fixed order.

#pragma once

#include "dualfp/kernels/cuda/attention/decode_units.cuh"
#include "dualfp/kernels/cuda/attention/fragments.cuh"
#include "dualfp/kernels/cuda/common/cluster.cuh"

namespace dualfp::cuda {

__device__ __forceinline__ uint4 LoadStream(const void* p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

// Where query `index` of a sequence's list lies.
struct QueryPlace {
  int64_t token;
  int head;
  int position;

  __device__ QueryPlace(const AttentionParams& p, const Piece& piece, int index) {
    const int row = index / p.group;
    token = p.query_start[piece.sequence] + row;
    head = piece.kv_head * p.group + index % p.group;
    position = piece.length - piece.rows + row;
  }
};

// Four elements of the output.
__device__ __forceinline__ void StoreOut(const AttentionParams& p, const QueryPlace& place, int d,
                                         float (&v)[4], float factor) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[i] *= factor;
  }
  const int64_t offset = place.token * p.out_row + place.head * p.out_head + d;
  if (p.dtype == DType::kF16) {
    StoreFloats(v, static_cast<__half*>(p.out) + offset);
  } else {
    StoreFloats(v, static_cast<__nv_bfloat16*>(p.out) + offset);
  }
}

// Blocks of the cache that a warp loads at a time.
template <typename Cache, int kDim>
constexpr int kPagesOf = kDim * sizeof(Cache) <= 128   ? 4
                         : kDim * sizeof(Cache) <= 256 ? 2
                                                       : 1;

template <typename Cache, int kDim>
__global__ void __launch_bounds__(kDecodeThreads, kDecodeBlocksPerSm)
    Decode(const __grid_constant__ AttentionParams p) {
  using E = typename MatrixType<Cache>::Type;
  constexpr int kSize = sizeof(Cache);
  constexpr int kRowBytes = kDim * kSize;
  constexpr int kPages = kPagesOf<Cache, kDim>;
  constexpr int kPairs = Widened<Cache>::kPairs;
  constexpr int kKeyParts = (kRowBytes + 63) / 64;      // four lanes' 16 bytes of a key
  constexpr int kValueParts = (kRowBytes + 127) / 128;  // eight lanes' of a value
  constexpr int kPageBytes = kKvBlockSize * kRowBytes;  // of a kv head
  constexpr int kPartElements = 16 / kSize;

  extern __shared__ int lengths[];
  __shared__ float warp_out[kDecodeWarps][kQueryTile][kDim];
  __shared__ float warp_max[kDecodeWarps][kQueryTile];
  __shared__ float warp_sum[kDecodeWarps][kQueryTile];
  __shared__ bool is_last;

  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int g = lane / 4;
  const int c = lane % 4;
  GridLaunchDependents();
  const DecodeUnits units(p, lengths);
  const int64_t block_bytes = int64_t{kPageBytes} * p.kv_heads;

  // What this warp loads next: kPages blocks of `next`, whose ids are here already.
  uint4 keys[kPages][2][kKeyParts];
  uint4 values[kPages][4][kValueParts];
  int ids[kPages];
  int next_unit = blockIdx.x;
  Piece next;
  const auto seek = [&] {
    for (; next_unit < units.count(); next_unit += gridDim.x) {
      next = units.At(next_unit);
      next.page += warp * kPages;
      if (next.page < next.page_end) {
        return;
      }
    }
  };
  const auto load_ids = [&] {
    if (next_unit < units.count()) {
      const int32_t* table = p.block_table + next.sequence * p.table_row;
#pragma unroll
      for (int i = 0; i < kPages; ++i) {
        ids[i] = table[min(next.page + i, next.page_end - 1)];
      }
    }
  };
  const auto page_of = [&](const void* cache, int i) {
    return static_cast<const char*>(cache) + ids[i] * block_bytes + next.kv_head * kPageBytes;
  };
  const auto load_keys = [&] {
    if (next_unit < units.count()) {
#pragma unroll
      for (int i = 0; i < kPages; ++i) {
        const char* page = page_of(p.key, i) + g * kRowBytes + c * 16;
#pragma unroll
        for (int j = 0; j < kKeyParts; ++j) {
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            keys[i][r][j] = (j + 1) * 64 <= kRowBytes || j * 64 + c * 16 < kRowBytes
                                ? LoadStream(page + r * 8 * kRowBytes + j * 64)
                                : make_uint4(0, 0, 0, 0);
          }
        }
      }
    }
  };
  const auto load_values = [&] {
    if (next_unit < units.count()) {
#pragma unroll
      for (int i = 0; i < kPages; ++i) {
        const char* page = page_of(p.value, i) + 2 * c * kRowBytes + g * 16;
#pragma unroll
        for (int j = 0; j < kValueParts; ++j) {
#pragma unroll
          for (int r = 0; r < 4; ++r) {
            values[i][r][j] = (j + 1) * 128 <= kRowBytes || j * 128 + g * 16 < kRowBytes
                                  ? LoadStream(page + (r % 2 + r / 2 * 8) * kRowBytes + j * 128)
                                  : make_uint4(0, 0, 0, 0);
          }
        }
      }
    }
  };
  const auto advance = [&] {
    next.page += kDecodeWarps * kPages;
    if (next.page >= next.page_end) {
      next_unit += gridDim.x;
      seek();
    }
  };

  seek();
  load_ids();
  // Blocks that this step's tokens are not in were complete before the step.
  const bool early =
      next_unit < units.count() &&
      next.page + kPages <= (next.length - next.rows) / static_cast<int>(kKvBlockSize);
  if (early) {
    load_keys();
    load_values();
  }
  GridWaitForPrevious();
  if (!early) {
    load_keys();
    load_values();
  }
  if (next_unit < units.count()) {
    advance();
  }
  load_ids();

  for (int unit = blockIdx.x; unit < units.count(); unit += gridDim.x) {
    const Piece piece = units.At(unit);
    const int queries = min(kQueryTile, piece.rows * p.group - piece.tile * kQueryTile);
    uint32_t query[kKeyParts][kPairs];
    {
      const bool there = g < queries;
      const QueryPlace place(p, piece, piece.tile * kQueryTile + (there ? g : 0));
      const int64_t offset = place.token * p.query_row + place.head * p.query_head;
#pragma unroll
      for (int j = 0; j < kKeyParts; ++j) {
        const int d = (j * 4 + c) * kPartElements;
#pragma unroll
        for (int i = 0; i < kPairs; ++i) {
          query[j][i] = 0;
        }
        if (there && d < kDim) {
          LoadQuery<E>(p, offset + d, query[j]);
        }
      }
    }
    // Keys [low, high] are seen by this lane's queries, columns 2c and 2c + 1.
    int high[2];
    int low[2];
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      const int index = piece.tile * kQueryTile + min(2 * c + x, queries - 1);
      high[x] = piece.length - piece.rows + index / p.group;
      low[x] = p.window > 0 ? high[x] - p.window + 1 : 0;
    }
    // Keys that every query sees.
    const int all_high = piece.length - piece.rows;
    const int all_low = p.window > 0 ? piece.length - p.window : 0;

    float max[2] = {kLeastMaximum, kLeastMaximum};
    float sum[2] = {0.0f, 0.0f};
    float out[kValueParts][kPairs][4] = {};
    for (int page = piece.page + warp * kPages; page < piece.page_end;
         page += kDecodeWarps * kPages) {
      float score[kPages][4];
#pragma unroll
      for (int i = 0; i < kPages; ++i) {
        score[i][0] = score[i][1] = score[i][2] = score[i][3] = 0.0f;
#pragma unroll
        for (int j = 0; j < kKeyParts; ++j) {
          const Widened<Cache> upper(keys[i][0][j]);
          const Widened<Cache> lower(keys[i][1][j]);
#pragma unroll
          for (int w = 0; w < kPairs; w += 2) {
            Mma<E>(score[i], upper.pair[w], lower.pair[w], upper.pair[w + 1], lower.pair[w + 1],
                   query[j][w], query[j][w + 1]);
          }
        }
      }
      load_keys();
      const int first_key = page * static_cast<int>(kKvBlockSize);
      const bool cut = page + kPages > piece.page_end || first_key < all_low ||
                       first_key + kPages * static_cast<int>(kKvBlockSize) - 1 > all_high;
      float new_max[2] = {max[0], max[1]};
#pragma unroll
      for (int i = 0; i < kPages; ++i) {
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          score[i][x] *= p.scale_log2;
          if (cut) {
            const int key = first_key + i * static_cast<int>(kKvBlockSize) + g + x / 2 * 8;
            if (key > high[x % 2] || key < low[x % 2] ||
                key >= piece.page_end * static_cast<int>(kKvBlockSize)) {
              score[i][x] = -INFINITY;
            }
          }
          new_max[x % 2] = fmaxf(new_max[x % 2], score[i][x]);
        }
      }
#pragma unroll
      for (int d = 4; d < 32; d *= 2) {
        new_max[0] = fmaxf(new_max[0], __shfl_xor_sync(0xFFFFFFFFu, new_max[0], d));
        new_max[1] = fmaxf(new_max[1], __shfl_xor_sync(0xFFFFFFFFu, new_max[1], d));
      }
      if (__any_sync(0xFFFFFFFFu, new_max[0] > max[0] || new_max[1] > max[1])) {
        const float keep[2] = {Exp2(max[0] - new_max[0]), Exp2(max[1] - new_max[1])};
#pragma unroll
        for (int x = 0; x < 2; ++x) {
          sum[x] *= keep[x];
          max[x] = new_max[x];
        }
#pragma unroll
        for (int j = 0; j < kValueParts; ++j) {
#pragma unroll
          for (int w = 0; w < kPairs; ++w) {
#pragma unroll
            for (int x = 0; x < 4; ++x) {
              out[j][w][x] *= keep[x % 2];
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kPages; ++i) {
        float weight[4];
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          weight[x] = Exp2(score[i][x] - max[x % 2]);
          sum[x % 2] += weight[x];
        }
        const uint32_t b0 = TransposeMatrix(PackPair<E>(weight[0], weight[1]));
        const uint32_t b1 = TransposeMatrix(PackPair<E>(weight[2], weight[3]));
        if (cut) {
          // What lies behind the context may be anything, and 0 * NaN is NaN.
#pragma unroll
          for (int r = 0; r < 4; ++r) {
            const int key =
                first_key + i * static_cast<int>(kKvBlockSize) + 2 * c + r % 2 + r / 2 * 8;
            if (key >= piece.length) {
#pragma unroll
              for (int j = 0; j < kValueParts; ++j) {
                values[i][r][j] = make_uint4(0, 0, 0, 0);
              }
            }
          }
        }
#pragma unroll
        for (int j = 0; j < kValueParts; ++j) {
          const Widened<Cache> v0(values[i][0][j]);
          const Widened<Cache> v1(values[i][1][j]);
          const Widened<Cache> v2(values[i][2][j]);
          const Widened<Cache> v3(values[i][3][j]);
#pragma unroll
          for (int w = 0; w < kPairs; ++w) {
            Mma<E>(out[j][w], __byte_perm(v0.pair[w], v1.pair[w], 0x5410),
                   __byte_perm(v0.pair[w], v1.pair[w], 0x7632),
                   __byte_perm(v2.pair[w], v3.pair[w], 0x5410),
                   __byte_perm(v2.pair[w], v3.pair[w], 0x7632), b0, b1);
          }
        }
      }
      load_values();
      if (next_unit < units.count()) {
        advance();
      }
      load_ids();
    }

    // The warps' sums meet.
#pragma unroll
    for (int d = 4; d < 32; d *= 2) {
      sum[0] += __shfl_xor_sync(0xFFFFFFFFu, sum[0], d);
      sum[1] += __shfl_xor_sync(0xFFFFFFFFu, sum[1], d);
    }
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      const int column = 2 * c + x;
      if (g == 0) {
        warp_max[warp][column] = max[x];
        warp_sum[warp][column] = sum[x];
      }
#pragma unroll
      for (int j = 0; j < kValueParts; ++j) {
#pragma unroll
        for (int w = 0; w < kPairs; ++w) {
          const int d = (j * 8 + g) * kPartElements + 2 * w;
          if (column < queries && d < kDim) {
            *reinterpret_cast<float2*>(&warp_out[warp][column][d]) =
                make_float2(out[j][w][x], out[j][w][x + 2]);
          }
        }
      }
    }
    __syncthreads();
    const int64_t slot = int64_t{unit} * kQueryTile;
    for (int column = warp; column < queries; column += kDecodeWarps) {
      float all_max = kLeastMaximum;
#pragma unroll
      for (int w = 0; w < kDecodeWarps; ++w) {
        all_max = fmaxf(all_max, warp_max[w][column]);
      }
      float all_sum = 0.0f;
      float factor[kDecodeWarps];
#pragma unroll
      for (int w = 0; w < kDecodeWarps; ++w) {
        factor[w] = Exp2(warp_max[w][column] - all_max);
        all_sum += factor[w] * warp_sum[w][column];
      }
      const QueryPlace place(p, piece, piece.tile * kQueryTile + column);
      for (int d = 4 * lane; d < kDim; d += 128) {
        float v[4] = {};
#pragma unroll
        for (int w = 0; w < kDecodeWarps; ++w) {
          const auto part = *reinterpret_cast<const float4*>(&warp_out[w][column][d]);
          v[0] = fmaf(factor[w], part.x, v[0]);
          v[1] = fmaf(factor[w], part.y, v[1]);
          v[2] = fmaf(factor[w], part.z, v[2]);
          v[3] = fmaf(factor[w], part.w, v[3]);
        }
        if (piece.splits == 1) {
          StoreOut(p, place, d, v, p.value_scale / all_sum);
        } else {
          *reinterpret_cast<float4*>(p.partial + (slot + column) * kDim + d) =
              make_float4(v[0], v[1], v[2], v[3]);
        }
      }
      if (piece.splits > 1 && lane == 0) {
        *reinterpret_cast<float2*>(p.partial_max_sum + (slot + column) * 2) =
            make_float2(all_max, all_sum);
      }
    }
    if (piece.splits > 1) {
      // The last block of a context merges its pieces; the counter ends where it began.
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        const int64_t counter =
            (int64_t{piece.sequence} * MostQueryTiles(p.group) + piece.tile) * p.kv_heads +
            piece.kv_head;
        const auto others = static_cast<unsigned>(piece.splits - 1);
        is_last = atomicInc(p.counters + counter, others) == others;
      }
      __syncthreads();
      if (is_last) {
        __threadfence();
        for (int column = warp; column < queries; column += kDecodeWarps) {
          const int64_t step = int64_t{piece.stride} * kQueryTile;
          const int64_t first = int64_t{piece.first_unit} * kQueryTile + column;
          float all_max = kLeastMaximum;
          for (int i = lane; i < piece.splits; i += 32) {
            all_max = fmaxf(all_max, __ldcg(p.partial_max_sum + (first + i * step) * 2));
          }
#pragma unroll
          for (int d = 16; d > 0; d /= 2) {
            all_max = fmaxf(all_max, __shfl_xor_sync(0xFFFFFFFFu, all_max, d));
          }
          const QueryPlace place(p, piece, piece.tile * kQueryTile + column);
          for (int d = 4 * lane; d < kDim; d += 128) {
            float v[4] = {};
            float all_sum = 0.0f;
#pragma unroll 4
            for (int i = 0; i < piece.splits; ++i) {
              const float2 max_sum = __ldcg(
                  reinterpret_cast<const float2*>(p.partial_max_sum + (first + i * step) * 2));
              const float4 part = __ldcg(
                  reinterpret_cast<const float4*>(p.partial + (first + i * step) * kDim + d));
              const float factor = Exp2(max_sum.x - all_max);
              all_sum = fmaf(factor, max_sum.y, all_sum);
              v[0] = fmaf(factor, part.x, v[0]);
              v[1] = fmaf(factor, part.y, v[1]);
              v[2] = fmaf(factor, part.z, v[2]);
              v[3] = fmaf(factor, part.w, v[3]);
            }
            StoreOut(p, place, d, v, p.value_scale / all_sum);
          }
        }
      }
    }
    __syncthreads();  // shared memory is used again
  }
}

}  // namespace dualfp::cuda
