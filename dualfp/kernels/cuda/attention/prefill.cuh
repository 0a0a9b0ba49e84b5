// Prefills: a block holds a tile of queries in shared memory and goes over tiles of keys that start
// at multiples of kKeyTile, with an online softmax, so that a token's result does not depend on how
// its prompt is cut (Dao, FlashAttention-2, arXiv 2307.08691).

#pragma once

#include "dualfp/kernels/cuda/attention/attention.h"
#include "dualfp/kernels/cuda/attention/fragments.cuh"
#include "dualfp/kernels/cuda/attention/mma.cuh"
#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/cuda/common/matrix.cuh"
#include "dualfp/kernels/cuda/ops/element.cuh"

namespace dualfp::cuda {

constexpr int kPrefillWarps = 4;
constexpr int kPrefillThreads = 32 * kPrefillWarps;
constexpr int kKeyTile = 64;

// Rows of head_dim 16-bit elements in shared memory, 16 bytes more apart than they are long: eight
// rows at the same column then lie in different banks.
template <int kDim>
struct PrefillShared {
  static constexpr int kRowBytes = 2 * kDim + 16;
  static constexpr int kTile = PrefillTile(kDim);
  static constexpr int kQueryBytes = kTile * kRowBytes;
  static constexpr int kKeyBytes = kKeyTile * kRowBytes;
  static constexpr int kBytes = kQueryBytes + 2 * 2 * kKeyBytes;  // two stages of keys and values
};

// A tile of queries of one sequence.
struct PrefillTilePlace {
  int sequence = -1;
  int first_query = 0;
  int queries = 0;  // of the sequence
  int rows = 0;
  int length = 0;

  // Tiles in the order of sequences, the last ones first: their work is the longest. By whole
  // warps.
  __device__ PrefillTilePlace(const AttentionParams& p, int tile_queries, int index) {
    const int lane = threadIdx.x % 32;
    for (int end = p.sequences; end > 0 && sequence < 0; end -= 32) {
      const int s = end - 1 - lane;
      int tiles = 0;
      if (s >= 0) {
        const int count = p.query_start[s + 1] - p.query_start[s];
        tiles = count > 0 && !IsDecode(count, p.group)
                    ? (count * p.group + tile_queries - 1) / tile_queries
                    : 0;
      }
      int through = tiles;
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const int below = __shfl_up_sync(0xFFFFFFFFu, through, d);
        through += lane >= d ? below : 0;
      }
      const unsigned found = __ballot_sync(0xFFFFFFFFu, index < through);
      if (found == 0) {
        index -= __shfl_sync(0xFFFFFFFFu, through, 31);
        continue;
      }
      const int owner = __ffs(static_cast<int>(found)) - 1;
      sequence = end - 1 - owner;
      const int last = __shfl_sync(0xFFFFFFFFu, through, owner);
      first_query = (last - 1 - index) * tile_queries;
    }
    if (sequence >= 0) {
      rows = p.query_start[sequence + 1] - p.query_start[sequence];
      queries = rows * p.group;
      length = p.context_length[sequence];
    }
  }
};

template <typename Cache, int kDim>
__global__ void __launch_bounds__(kPrefillThreads)
    Prefill(const __grid_constant__ AttentionParams p) {
  using E = typename MatrixType<Cache>::Type;
  using Shared = PrefillShared<kDim>;
  constexpr int kRowBytes = Shared::kRowBytes;
  constexpr int kParts = kDim / 8;                                 // 16 bytes in shared memory
  constexpr int kRowTiles = Shared::kTile / (16 * kPrefillWarps);  // of 16 queries, a warp
  constexpr int kKeySteps = kKeyTile / 16;
  constexpr int kDimSteps = kDim / 16;
  constexpr int kWarpRows = 16 * kRowTiles;

  extern __shared__ __align__(16) char shared[];
  const auto base = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const uint32_t key_base = base + Shared::kQueryBytes;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int g = lane / 4;
  const int c = lane % 4;
  const int kv_head = blockIdx.y;

  const PrefillTilePlace tile(p, Shared::kTile, static_cast<int>(blockIdx.x));
  GridLaunchDependents();
  GridWaitForPrevious();
  if (tile.sequence < 0) {
    return;
  }
  const int64_t first_token = p.query_start[tile.sequence];
  const int32_t* table = p.block_table + tile.sequence * p.table_row;
  const int past = tile.length - tile.rows;  // tokens before the step's
  const int last_query = min(tile.first_query + Shared::kTile, tile.queries) - 1;
  const int first_position = past + tile.first_query / p.group;
  const int last_position = past + last_query / p.group;
  const int first_key = p.window > 0 ? max(0, first_position - p.window + 1) : 0;

  for (int i = threadIdx.x; i < Shared::kTile * kParts; i += kPrefillThreads) {
    const int row = i / kParts;
    const int part = i % kParts;
    const int index = tile.first_query + row;
    uint32_t pair[4] = {};
    if (index < tile.queries) {
      const int64_t offset = (first_token + index / p.group) * p.query_row +
                             int64_t{kv_head * p.group + index % p.group} * p.query_head + part * 8;
      LoadQuery<E>(p, offset, pair);
    }
    *reinterpret_cast<uint4*>(shared + row * kRowBytes + part * 16) =
        make_uint4(pair[0], pair[1], pair[2], pair[3]);
  }

  const auto load_tile = [&](int key_tile, int stage) {
    constexpr int kPieceElements = 16 / sizeof(Cache);
    constexpr int kPieces = kDim / kPieceElements;  // of a key in the cache
    for (int i = threadIdx.x; i < kKeyTile * kPieces; i += kPrefillThreads) {
      const int row = i / kPieces;
      const int piece = i % kPieces;
      const int key = key_tile * kKeyTile + row;
      const bool there = key < tile.length;
      const int64_t block = table[(there ? key : 0) / kKvBlockSize];
      const int64_t at =
          ((block * p.kv_heads + kv_head) * kKvBlockSize + key % kKvBlockSize) * kDim +
          piece * kPieceElements;
#pragma unroll
      for (int kind = 0; kind < 2; ++kind) {
        const Cache* from = static_cast<const Cache*>(kind == 0 ? p.key : p.value) + at;
        const int offset = Shared::kQueryBytes + (2 * stage + kind) * Shared::kKeyBytes +
                           row * kRowBytes + piece * 2 * kPieceElements;
        if constexpr (sizeof(Cache) == 2) {
          CopyAsync16(base + offset, from, there);
        } else {
          const Widened<Cache> wide(there ? *reinterpret_cast<const uint4*>(from)
                                          : make_uint4(0, 0, 0, 0));
          auto* to = reinterpret_cast<uint4*>(shared + offset);
          to[0] = make_uint4(wide.pair[0], wide.pair[1], wide.pair[2], wide.pair[3]);
          to[1] = make_uint4(wide.pair[4], wide.pair[5], wide.pair[6], wide.pair[7]);
        }
      }
    }
    CommitCopies();
  };

  // This lane's two queries of each row tile: what they see, and their softmax so far.
  int high[kRowTiles][2];
  float max[kRowTiles][2];
  float sum[kRowTiles][2];
#pragma unroll
  for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      const int index = tile.first_query + warp * kWarpRows + t * 16 + g + x * 8;
      high[t][x] = past + min(index, last_query) / p.group;
      max[t][x] = kLeastMaximum;
      sum[t][x] = 0.0f;
    }
  }
  float out[kRowTiles][2 * kDimSteps][4] = {};

  const int begin = first_key / kKeyTile;
  const int end = last_position / kKeyTile + 1;
  load_tile(begin, 0);
  const int matrix_row = lane % 16;
  const int matrix_part = lane / 16 * 16;
  for (int key_tile = begin; key_tile < end; ++key_tile) {
    const int stage = (key_tile - begin) % 2;
    WaitForCopies();
    __syncthreads();
    if (key_tile + 1 < end) {
      load_tile(key_tile + 1, 1 - stage);
    }
    const uint32_t keys = key_base + 2 * stage * Shared::kKeyBytes;
    const uint32_t values = keys + Shared::kKeyBytes;

    float score[kRowTiles][2 * kKeySteps][4] = {};
#pragma unroll
    for (int d = 0; d < kDimSteps; ++d) {
      uint32_t query[kRowTiles][4];
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) {
        LoadMatrix4(query[t], base + (warp * kWarpRows + t * 16 + matrix_row) * kRowBytes + d * 32 +
                                  matrix_part);
      }
#pragma unroll
      for (int k = 0; k < kKeySteps; ++k) {
        uint32_t key[4];
        LoadMatrix4(key, keys + (k * 16 + lane % 8 + lane / 16 * 8) * kRowBytes + d * 32 +
                             lane / 8 % 2 * 16);
#pragma unroll
        for (int t = 0; t < kRowTiles; ++t) {
          Mma<E>(score[t][2 * k], query[t][0], query[t][1], query[t][2], query[t][3], key[0],
                 key[1]);
          Mma<E>(score[t][2 * k + 1], query[t][0], query[t][1], query[t][2], query[t][3], key[2],
                 key[3]);
        }
      }
    }

    const int tile_key = key_tile * kKeyTile;
    const bool cut = tile_key + kKeyTile - 1 > first_position ||
                     (p.window > 0 && tile_key <= last_position - p.window);
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
      float new_max[2] = {max[t][0], max[t][1]};
#pragma unroll
      for (int k = 0; k < 2 * kKeySteps; ++k) {
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          float& s = score[t][k][x];
          s *= p.scale_log2;
          if (cut) {
            const int key = tile_key + k * 8 + 2 * c + x % 2;
            const int position = high[t][x / 2];
            if (key > position || (p.window > 0 && key <= position - p.window)) {
              s = -INFINITY;
            }
          }
          new_max[x / 2] = fmaxf(new_max[x / 2], s);
        }
      }
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        new_max[x] = fmaxf(new_max[x], __shfl_xor_sync(0xFFFFFFFFu, new_max[x], 1));
        new_max[x] = fmaxf(new_max[x], __shfl_xor_sync(0xFFFFFFFFu, new_max[x], 2));
        const float keep = Exp2(max[t][x] - new_max[x]);
        max[t][x] = new_max[x];
        sum[t][x] *= keep;
#pragma unroll
        for (int d = 0; d < 2 * kDimSteps; ++d) {
          out[t][d][2 * x] *= keep;
          out[t][d][2 * x + 1] *= keep;
        }
      }
#pragma unroll
      for (int k = 0; k < 2 * kKeySteps; ++k) {
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          const float weight = Exp2(score[t][k][x] - max[t][x / 2]);
          sum[t][x / 2] += weight;
          score[t][k][x] = weight;
        }
      }
    }

#pragma unroll
    for (int k = 0; k < kKeySteps; ++k) {
      uint32_t weight[kRowTiles][4];
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) {
        weight[t][0] = PackPair<E>(score[t][2 * k][0], score[t][2 * k][1]);
        weight[t][1] = PackPair<E>(score[t][2 * k][2], score[t][2 * k][3]);
        weight[t][2] = PackPair<E>(score[t][2 * k + 1][0], score[t][2 * k + 1][1]);
        weight[t][3] = PackPair<E>(score[t][2 * k + 1][2], score[t][2 * k + 1][3]);
      }
#pragma unroll
      for (int d = 0; d < kDimSteps; ++d) {
        uint32_t value[4];
        LoadMatrix4Transposed(value,
                              values + (k * 16 + matrix_row) * kRowBytes + d * 32 + matrix_part);
#pragma unroll
        for (int t = 0; t < kRowTiles; ++t) {
          Mma<E>(out[t][2 * d], weight[t][0], weight[t][1], weight[t][2], weight[t][3], value[0],
                 value[1]);
          Mma<E>(out[t][2 * d + 1], weight[t][0], weight[t][1], weight[t][2], weight[t][3],
                 value[2], value[3]);
        }
      }
    }
  }

#pragma unroll
  for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      float all = sum[t][x];
      all += __shfl_xor_sync(0xFFFFFFFFu, all, 1);
      all += __shfl_xor_sync(0xFFFFFFFFu, all, 2);
      const float factor = p.value_scale / all;
      const int index = tile.first_query + warp * kWarpRows + t * 16 + g + x * 8;
      if (index > last_query) {
        continue;
      }
      const int64_t offset = (first_token + index / p.group) * p.out_row +
                             int64_t{kv_head * p.group + index % p.group} * p.out_head + 2 * c;
#pragma unroll
      for (int d = 0; d < 2 * kDimSteps; ++d) {
        const float v[2] = {out[t][d][2 * x] * factor, out[t][d][2 * x + 1] * factor};
        if (p.dtype == DType::kF16) {
          StoreFloats(v, static_cast<__half*>(p.out) + offset + d * 8);
        } else {
          StoreFloats(v, static_cast<__nv_bfloat16*>(p.out) + offset + d * 8);
        }
      }
    }
  }
}

}  // namespace dualfp::cuda
