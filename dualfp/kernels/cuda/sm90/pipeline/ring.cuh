// The ring of shared-memory stages between the warps that load and those that multiply: who shares
// it with whom, its barriers, and how a stage is handed back.

#pragma once

#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/cuda/common/wgmma.cuh"
#include "dualfp/kernels/cuda/sm90/gemm_params.h"
#include "dualfp/kernels/cuda/sm90/pipeline/gpc_placement.cuh"
#include "dualfp/kernels/cuda/sm90/pipeline/tile.cuh"

namespace dualfp::sm90 {

__device__ __forceinline__ int Log2(int power_of_two) { return 31 - __clz(power_of_two); }

// This CTA's place in its cluster.
struct ClusterPlace {
  ClusterShape shape;
  int split_rank;
  int x_rank;  // among the CTAs that share an X tile
  int w_rank;  // among the CTAs that share a W tile
  // Ranks of the CTAs that share this one's X tile, a bit each; likewise W.
  uint16_t x_mask;
  uint16_t w_mask;

  __device__ ClusterPlace(const GemmParams& p, int rank) : shape(p.cluster) {
    const int tile = p.split.Quotient(rank);
    split_rank = rank - tile * shape.split;
    x_rank = tile & (shape.share_x - 1);
    w_rank = tile >> Log2(shape.share_x);
    x_mask = static_cast<uint16_t>(p.x_peers << Rank(0, w_rank));
    w_mask = static_cast<uint16_t>(p.w_peers << Rank(x_rank, 0));
  }

  __device__ int Rank(int x, int w) const {
    return split_rank + shape.split * (x + shape.share_x * w);
  }
  // Where this CTA's share of an operand's tile begins.
  __device__ int XOffset(int tokens) const { return x_rank * tokens >> Log2(shape.share_x); }
  __device__ int WOffset(int rows) const { return w_rank * rows >> Log2(shape.share_w); }
  __device__ bool shares() const { return shape.share_x * shape.share_w > 1; }
  // CTAs that this one loads for, itself included, and the rank of each.
  __device__ int peers() const { return shape.share_x + shape.share_w - 1; }
  __device__ int Peer(int index) const {
    if (index < shape.share_x) {
      return Rank(index, w_rank);
    }
    const int w = index - shape.share_x;
    return Rank(x_rank, w + (w >= w_rank ? 1 : 0));
  }
};

// The ring's barriers, by the consumers' warps. Addresses must be uniform across a warp, or lanes
// take turns: a few stages a warp.
template <class T>
__device__ __forceinline__ void InitRing(const SharedLayout<T>& shared, const ClusterPlace& place) {
  constexpr int kWarps = T::kConsumers / 32;
  const int warp = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 32, 0);
  if (cuda::ElectOne()) {
#pragma unroll
    for (int first = 0; first < T::kStages; first += kWarps) {
      const int stage = first + warp;
      if (stage < T::kStages) {
        cuda::BarrierInit(shared.Full(stage), 1);
        cuda::BarrierInit(shared.Empty(stage), 4 * T::kSharers * place.peers());
        if constexpr (T::kSeparate) {
          cuda::BarrierInit(shared.FullX(stage), 1);
          cuda::BarrierInit(shared.EmptyX(stage), 4 * T::kSharers * place.peers());
        }
      }
    }
    if (warp == 0) {
      cuda::BarrierInit(shared.SumBarrier(), 1);
    }
    if (T::kSums && warp == 1) {
      cuda::BarrierInit(shared.SumsFull(), 32);
      cuda::BarrierInit(shared.SumsEmpty(), T::kConsumers);
    }
    cuda::BarrierInitFence();
  }
  __syncwarp();
}

// After this, by all warps wherever they are, all barriers of the cluster that copies or arrivals
// may touch exist, and what threads of the CTA left in shared memory before is there.
template <class T>
__device__ __forceinline__ void StartTogether(const ClusterPlace& place) {
  if (place.shares()) {
    __threadfence_block();
    cuda::ClusterSyncRelaxed();  // fences are the release
  } else {
    cuda::NamedBarrierSync(0, T::kThreads);
  }
}

// Runs body(false), which must do nothing but run through its code, then body(true). Code that has
// not run in a launch costs 70 cycles for each 8 instructions: what is to follow a wait is fetched
// before it. The number of rehearsals, one, is a parameter lest the compiler copy the code.
template <class Body>
__device__ __forceinline__ void Rehearsed(const GemmParams& p, const Body& body) {
#pragma unroll 1
  for (int left = p.rehearsals; left >= 0; --left) {
    body(left == 0);
  }
}

// The first instruction of each role.
template <class T>
__device__ __forceinline__ void BecomeLoader() {
  if constexpr (T::kLoaderRegisters != 0) {
    cuda::LowerRegisters<T::kLoaderRegisters>();
  }
}
template <class T>
__device__ __forceinline__ void BecomeConsumer() {
  if constexpr (T::kConsumerRegisters != 0) {
    cuda::RaiseRegisters<T::kConsumerRegisters>();
  }
}

// Tells the loaders that fill a stage that this warp has finished with its weights, or with X and
// so with all of it.
template <class T>
class StageRelease {
 public:
  __device__ StageRelease(const SharedLayout<T>& shared, const ClusterPlace& place)
      : tells_(static_cast<int>(threadIdx.x % 32) < place.peers()),
        peer_(cuda::ClusterAddress(
            shared.Empty(0),
            place.Peer(min(static_cast<int>(threadIdx.x % 32), place.peers() - 1)))) {}

  __device__ __forceinline__ void Weights(uint32_t stage) const {
    cuda::BarrierArriveAtIf(tells_, peer_ + 8 * stage);
  }
  __device__ __forceinline__ void X(uint32_t stage, bool really = true) const {
    cuda::BarrierArriveAtIf(really && tells_, peer_ + 8 * stage + SharedLayout<T>::kXBarriers);
  }

 private:
  bool tells_;     // this lane does,
  uint32_t peer_;  // a CTA with this empty barrier of stage 0
};

}  // namespace dualfp::sm90
