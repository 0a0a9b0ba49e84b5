// As many clusters as fit walk over the tiles; loading runs ahead across tiles.
// 16-bit output; activation and residual see values rounded to it.

#pragma once

#include "dualfp/kernels/cuda/sm90/epilogue.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop.cuh"
#include "dualfp/kernels/cuda/sm90/promoted.cuh"

namespace dualfp::sm90 {

struct TilePosition {
  int row;
  int token;
};

// Cluster tiles in the order in which clusters take them: groups of `raster_group` of them along
// the weights are walked token tile by token tile, so that what runs at one time shares operands in
// L2.
template <class T>
struct Raster {
  int row_tiles;  // of clusters
  int token_tiles;
  int group;
  int rows;  // of a cluster
  int tokens;
  int row_offset;  // of this CTA in its cluster
  int token_offset;

  __device__ Raster(const GemmParams& p, const ClusterPlace& place)
      : row_tiles(p.row_clusters),
        token_tiles(p.token_clusters),
        group(p.raster_group),
        rows(T::kRows * p.cluster.share_x),
        tokens(T::kTokens * p.cluster.share_w),
        row_offset(place.x_rank * T::kRows),
        token_offset(place.w_rank * T::kTokens) {}

  __device__ int count() const { return row_tiles * token_tiles; }

  __device__ TilePosition At(int tile) const {
    const int first = tile / (group * token_tiles) * group;
    const int width = min(group, row_tiles - first);
    const int inside = tile - first * token_tiles;
    return {(first + inside % width) * rows + row_offset, inside / width * tokens + token_offset};
  }
};

// Tokens that a warp turns at a time, and its staging buffer: [tokens][16 rows].
DUALFP_HOST_DEVICE constexpr int ChunkTokens(int tokens) {
  return tokens % 64 == 0 ? 64 : tokens % 32 == 0 ? 32 : tokens % 16 == 0 ? 16 : 8;
}
DUALFP_HOST_DEVICE constexpr int StagingBytes(int warpgroups, int tokens) {
  return warpgroups * 4 * ChunkTokens(tokens) * 32;
}

// Each warp turns its 16 rows around in shared memory and writes 32 bytes a token; no other warp is
// waited for. In the staging buffer the two 16-byte halves of a token change places every four
// tokens, which keeps stmatrix free of bank conflicts.
// kPlain: FP16 output with token scales and nothing else, which is what most tiles want; the warps
// have little to hide instructions behind here.
template <bool kPlain, class T>
__device__ __forceinline__ void StoreTile(const GemmParams& p, const ConsumerOf<T>& consumer,
                                          const TileConstants<T>& constants, uint32_t staging,
                                          int row0, int token0) {
  constexpr int kChunk = ChunkTokens(T::kTokens);
  constexpr int kPairs = kChunk >= 16 ? 2 : 1;  // blocks of 8 tokens that one stmatrix stores
  const Epilogue& e = p.epilogue;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const uint32_t buffer = staging + warp * kChunk * 32;
  const auto address = [&](int token, int half) {
    return buffer + token * 32 + ((half ^ (token >> 2 & 1)) << 4);
  };
#pragma unroll
  for (int block = 0; block < T::kBlocks; ++block) {
    const int tile_row = (warp / 4 * T::kBlocks + block) * 64 + warp % 4 * 16;  // of the warp
    const uint32_t lane_row = 4 * (tile_row + lane / 4);
    float row_scale[2] = {1.0f, 1.0f};
    float bias[2] = {0.0f, 0.0f};
    if constexpr (!kPlain) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        row_scale[h] = LoadShared(constants.row_scale + lane_row + 32 * h);
        bias[h] = LoadShared(constants.row_bias + lane_row + 32 * h);
      }
    }
#pragma unroll
    for (int chunk = 0; chunk < T::kTokens / kChunk; ++chunk) {
#pragma unroll
      for (int i = 0; i < kChunk / 8; i += kPairs) {
        uint32_t packed[kPairs][2];
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          const int column = chunk * kChunk / 8 + i + j;
          const float* d = &consumer.acc[block][column * 4];
          const float2 scale = LoadShared2(constants.token_scale + 4 * (column * 8 + lane % 4 * 2));
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            if constexpr (kPlain) {
              packed[j][h] = Pack(d[2 * h] * scale.x, d[2 * h + 1] * scale.y, OutputType::kF16);
            } else {
              packed[j][h] = Pack(d[2 * h] * (scale.x * row_scale[h]) + bias[h],
                                  d[2 * h + 1] * (scale.y * row_scale[h]) + bias[h], e.y_type);
            }
          }
        }
        if constexpr (kPairs == 2) {
          cuda::StoreMatrix4Transposed(address((i + lane / 16) * 8 + lane % 8, lane / 8 % 2),
                                       packed[0][0], packed[0][1], packed[1][0], packed[1][1]);
        } else {
          cuda::StoreMatrix2Transposed(address(i * 8 + lane % 8, lane / 8 % 2), packed[0][0],
                                       packed[0][1]);
        }
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < (kChunk + 15) / 16; ++i) {
        const int chunk_token = i * 16 + lane / 2;
        const int token = token0 + chunk * kChunk + chunk_token;
        const int row = row0 + tile_row + lane % 2 * 8;
        if (chunk_token < kChunk && token < p.m && row < p.n) {
          const float4 bits = LoadShared4(address(chunk_token, lane % 2));
          if (kPlain || (!e.silu && !e.silu_mul && e.residual == nullptr)) {
            *reinterpret_cast<float4*>(static_cast<uint16_t*>(e.y) + token * e.y_stride + row) =
                bits;
          } else {
            const float2 f[4] = {Unpack(__float_as_uint(bits.x), e.y_type),
                                 Unpack(__float_as_uint(bits.y), e.y_type),
                                 Unpack(__float_as_uint(bits.z), e.y_type),
                                 Unpack(__float_as_uint(bits.w), e.y_type)};
            float v[8] = {f[0].x, f[0].y, f[1].x, f[1].y, f[2].x, f[2].y, f[3].x, f[3].y};
            FinishRow(e, token, row, v);
          }
        }
      }
      __syncwarp();
    }
  }
}

// A CTA's barriers must outlive the arrivals that others have on their way to them.
__device__ __forceinline__ void LeaveCluster(const ClusterPlace& place) {
  if (place.shares()) {
    cuda::ClusterSyncRelaxed();
  }
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, T::kCtas)
    PersistentGemm(const __grid_constant__ GemmParams p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t dynamic_shared[];
  const SharedLayout<T> shared(dynamic_shared);
  const ClusterPlace place(p, cuda::ClusterRank());
  const int cluster = cuda::ClusterIndex();
  const int clusters = cuda::ClusterCount();
  const Raster<T> raster(p, place);
  const int stages = p.stages;
  const int last_k = p.k - (stages - 1) * T::kK;

  InitRing(shared, place);
  cuda::GridLaunchDependents();

  if (threadIdx.x >= T::kConsumers) {
    BecomeLoader<T>();
    ForEachOperand<T>([&](auto operand) {
      constexpr auto kOperand = decltype(operand)::value;
      RingIndex index;
      for (int tile = cluster; tile < raster.count(); tile += clusters) {
        const TilePosition position = raster.At(tile);
        const int first = kOperand == Loader<T>::Operand::kX ? position.token : position.row;
        Loader<T>::template Run<kOperand>(p, shared, place, index, first, 0, stages);
      }
    });
    __syncwarp();
    LeaveCluster(place);
  } else {
    BecomeConsumer<T>();
    cuda::GridWaitForPrevious();
    ConsumerOf<T> consumer(shared, place);
    const Epilogue& e = p.epilogue;
    const bool plain = e.y_type == OutputType::kF16 && e.w_scale == nullptr && e.bias == nullptr &&
                       !e.silu && !e.silu_mul && e.residual == nullptr;
    int parity = 0;
    for (int tile = cluster; tile < raster.count(); tile += clusters, parity ^= 1) {
      const TilePosition position = raster.At(tile);
      TileConstants<T> constants(shared.Constants(parity));
      constants.Fetch(p, position.row, position.token);
      RunTile<T>(consumer, p, 0, stages, last_k, position.row, position.token);
      constants.Publish();
      cuda::NamedBarrierSync(1, T::kConsumers);  // the constants are complete
      if (plain) {
        StoreTile<true, T>(p, consumer, constants, shared.Staging(), position.row, position.token);
      } else {
        StoreTile<false, T>(p, consumer, constants, shared.Staging(), position.row, position.token);
      }
    }
    LeaveCluster(place);
  }
#endif
}

}  // namespace dualfp::sm90
