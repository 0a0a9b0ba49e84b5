// One tile a CTA, K split over CTAs of a cluster: for problems that make about one wave.
// Grid: clusters over the weights (x) and the tokens (y).

#pragma once

#include "dualfp/kernels/cuda/sm90/epilogue/epilogue.cuh"
#include "dualfp/kernels/cuda/sm90/epilogue/outliers.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop/consumer.cuh"
#include "dualfp/kernels/cuda/sm90/pipeline/loader.cuh"

namespace dualfp::sm90 {

constexpr int kMaxSplit = 8;  // the portable cluster size

// FP32 partial sums lie over the emptied ring as [token][row], rows padded so that the lanes of a
// fragment hit different banks.
template <class T>
constexpr int kPartialStride = T::kRows + 4;

template <class T>
using SplitConstants = TileConstants<T::kTokens, T::kRows, T::kConsumers>;

template <class T>
__device__ __forceinline__ void StorePartials(const ConsumerOf<T>& consumer, uint32_t partials) {
  const int lane = threadIdx.x % 32;
  const int row0 = threadIdx.x / 128 * T::kBlocks * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
  for (int block = 0; block < T::kBlocks; ++block) {
#pragma unroll
    for (int i = 0; i < T::kTokens / 2; ++i) {
      const int token = i / 4 * 8 + lane % 4 * 2 + i % 2;
      const int row = row0 + block * 64 + i / 2 % 2 * 8;
      StoreShared(partials + (token * kPartialStride<T> + row) * 4, consumer.acc[block][i]);
    }
  }
}

// How the CTAs that share a tile share its reduction: each finishes a range of tokens, for which
// the others copy their partial sums into slots behind its own.
template <class T>
struct Reduction {
  int split;
  int rank;
  int tokens;  // of the tile that exist
  uint32_t partials;
  int cluster_rank0;  // of split rank 0
  const GemmParams& p;

  __device__ int Begin(int r) const { return p.split.Quotient(r * tokens); }
  __device__ uint32_t Bytes(int r) const {
    return (Begin(r + 1) - Begin(r)) * kPartialStride<T> * 4;
  }
  // Where CTA `from`'s sums lie in the memory of the CTA that owns range `owner`.
  __device__ uint32_t Slot(int owner, int from) const {
    if (owner == from) {
      return partials + Begin(owner) * kPartialStride<T> * 4;
    }
    const int index = from < owner ? from : from - 1;
    return partials + (tokens * kPartialStride<T> * 4) + index * Bytes(owner);
  }

  // One thread: sends every other range to its owner.
  __device__ __forceinline__ void Send(uint32_t barrier) const {
    if (Bytes(rank) > 0) {
      cuda::BarrierArriveExpect(barrier, (split - 1) * Bytes(rank));
    }
    for (int i = 1; i < split; ++i) {
      const int owner = (rank + i) % split;
      if (Bytes(owner) > 0) {
        cuda::BulkCopyToCluster(cuda::ClusterAddress(Slot(owner, rank), cluster_rank0 + owner),
                                Slot(rank, rank) - Begin(rank) * kPartialStride<T> * 4 +
                                    Begin(owner) * kPartialStride<T> * 4,
                                Bytes(owner), cuda::ClusterAddress(barrier, cluster_rank0 + owner));
      }
    }
  }
};

// Sums this CTA's range in rank order, so that results do not depend on timing, and stores it.
template <class T>
__device__ __forceinline__ void ReduceAndStore(const GemmParams& p, const Reduction<T>& reduction,
                                               const SplitConstants<T>& constants, int row0,
                                               int token0) {
  constexpr int kVectors = T::kRows / 4;  // of a token
  constexpr int kUnroll = 4;
  const int begin = reduction.Begin(reduction.rank);
  const int total = (reduction.Begin(reduction.rank + 1) - begin) * kVectors;
  uint32_t source[kMaxSplit];
#pragma unroll
  for (int s = 0; s < kMaxSplit; ++s) {
    source[s] = reduction.Slot(reduction.rank, min(s, reduction.split - 1));
  }
  for (int first = threadIdx.x; first < total; first += kUnroll * T::kConsumers) {
    float4 sum[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int v = min(first + u * T::kConsumers, total - 1);
      const uint32_t offset = (v / kVectors * kPartialStride<T> + v % kVectors * 4) * 4;
      sum[u] = LoadShared4(source[0] + offset);
#pragma unroll
      for (int s = 1; s < kMaxSplit; ++s) {
        if (s < reduction.split) {
          const float4 part = LoadShared4(source[s] + offset);
          sum[u].x += part.x;
          sum[u].y += part.y;
          sum[u].z += part.z;
          sum[u].w += part.w;
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int v = first + u * T::kConsumers;
      const int token = begin + v / kVectors;
      const int row = v % kVectors * 4;
      if (v < total && row0 + row < p.n) {
        const float scale = LoadShared(constants.token_scale + 4 * token);
        const float4 row_scale = LoadShared4(constants.row_scale + 4 * row);
        const float4 bias = LoadShared4(constants.row_bias + 4 * row);
        float y[4] = {
            sum[u].x * (scale * row_scale.x) + bias.x, sum[u].y * (scale * row_scale.y) + bias.y,
            sum[u].z * (scale * row_scale.z) + bias.z, sum[u].w * (scale * row_scale.w) + bias.w};
        FinishRow(p.epilogue, token0 + token, row0 + row, y);
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, T::kCtas)
    SplitGemm(const __grid_constant__ GemmParams p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  static_assert(T::kTokens * kPartialStride<T> * 4 <= T::kRegionBytes);
  extern __shared__ uint8_t dynamic_shared[];
  const SharedLayout<T> shared(dynamic_shared);
  const ClusterPlace place(p, cuda::ClusterRank());
  const int split = p.cluster.split;
  const int row0 = (cuda::ClusterIndex() * p.cluster.share_x + place.x_rank) * T::kRows;
  const int token0 = (static_cast<int>(blockIdx.y) * p.cluster.share_w + place.w_rank) * T::kTokens;
  const int all_stages = static_cast<int>(p.stages.value);
  const int begin = p.split.Quotient(place.split_rank * all_stages);
  const int stages = p.split.Quotient((place.split_rank + 1) * all_stages) - begin;
  const int last_k = place.split_rank == split - 1 ? p.k - (all_stages - 1) * T::kK : T::kK;

  if (threadIdx.x >= T::kConsumers) {
    BecomeLoader<T>();
    RunLoaders<T>(
        p, shared, place, {},
        [&](auto& loader) {
          const int first = loader.is_x() ? token0 : row0;
          Rehearsed(p, [&](bool really) {
            if (really) {
              StartTogether<T>(place);
            }
            loader.Begin(first, begin * T::kK, true, really);
          });
          loader.Run(first, begin * T::kK, stages, true);
        },
        [&] {
          if constexpr (T::kSums) {
            if (p.tiny != nullptr) {
              TinySums<T>(p, shared).Sum(row0, token0, begin, begin + stages);
            }
          }
        });
    if (p.cluster.size() > 1) {
      cuda::ClusterSyncRelaxed();
      cuda::ClusterSyncRelaxed();
    }
  } else {
    InitRing(shared, place);
    StartTogether<T>(place);
    BecomeConsumer<T>();
    AwaitFirstCopies<T>();
    SplitConstants<T> constants(shared.Constants(0));
    ConsumerOf<T> consumer(p, shared, place);
    FetchTile<T>(consumer, p, row0);
    constants.Fetch(p, row0, token0);
    OutlierPlace<T> outliers;
    outliers.Find(p, row0);
    RunTile<T>(consumer, p, begin, stages, last_k, row0, token0);
    cuda::NamedBarrierSync(1, T::kConsumers);  // everyone has finished with the ring
    constants.Publish(p.epilogue.alpha);
    StorePartials<T>(consumer, shared.ring);
    if (place.split_rank == 0) {
      AddOutliers<T, kPartialStride<T>>(p, outliers, shared.ring, row0, token0);
    }
    const Reduction<T> reduction{split,
                                 place.split_rank,
                                 max(0, min(T::kTokens, p.m - token0)),
                                 shared.ring,
                                 place.Rank(place.x_rank, place.w_rank) - place.split_rank,
                                 p};
    if (p.cluster.size() > 1) {
      cuda::FenceAsyncShared();
      // All CTAs have emptied their rings, and this CTA's partial sums are complete.
      cuda::ClusterSyncRelaxed();
    }
    cuda::NamedBarrierSync(1, T::kConsumers);
    if (split > 1) {
      if (threadIdx.x == 0) {
        reduction.Send(shared.SumBarrier());
      }
      if (reduction.Bytes(reduction.rank) > 0) {
        cuda::BarrierWait(shared.SumBarrier(), 0);
      }
    }
    ReduceAndStore<T>(p, reduction, constants, row0, token0);
    if (p.cluster.size() > 1) {
      cuda::ClusterSyncRelaxed();  // copies out of this CTA may still be under way
    }
  }
#endif
}

}  // namespace dualfp::sm90
