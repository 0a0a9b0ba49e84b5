// The ring of shared-memory stages between the warps that load and those that multiply: who shares
// it with whom, its barriers, and how a stage is handed back.

#pragma once

#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/cuda/common/wgmma.cuh"
#include "dualfp/kernels/cuda/sm90/gemm_params.h"
#include "dualfp/kernels/cuda/sm90/seats.cuh"
#include "dualfp/kernels/cuda/sm90/tile.cuh"

namespace dualfp::sm90 {

// This CTA's place in its cluster.
struct ClusterPlace {
  ClusterShape shape;
  int split_rank;
  int x_rank;  // among the CTAs that share an X tile
  int w_rank;  // among the CTAs that share a W tile

  __device__ ClusterPlace(const GemmParams& p, int rank) : shape(p.cluster) {
    const int tile = p.split.Quotient(rank);
    split_rank = rank - tile * shape.split;
    x_rank = tile & (shape.share_x - 1);
    w_rank = tile >> (31 - __clz(shape.share_x));
  }

  __device__ int Rank(int x, int w) const {
    return split_rank + shape.split * (x + shape.share_x * w);
  }
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
  __device__ uint16_t XMask() const {
    uint32_t mask = 0;
    for (int x = 0; x < shape.share_x; ++x) {
      mask |= 1u << Rank(x, w_rank);
    }
    return static_cast<uint16_t>(mask);
  }
  __device__ uint16_t WMask() const {
    uint32_t mask = 0;
    for (int w = 0; w < shape.share_w; ++w) {
      mask |= 1u << Rank(x_rank, w);
    }
    return static_cast<uint16_t>(mask);
  }
};

// After this all barriers of the cluster that copies or arrivals may touch exist, and the CTA has
// its seat.
template <class T>
__device__ __forceinline__ void InitRing(const GemmParams& p, const SharedLayout<T>& shared,
                                         const ClusterPlace& place) {
  if (threadIdx.x == kSeatThread<T> && p.seats.started != nullptr) {
    TakeSeat(p.seats, shared.Seat());
  }
  static_assert(T::kStages <= 32);
  const int lane = threadIdx.x;
  if (lane < 32) {
    if (lane < T::kStages) {
      cuda::BarrierInit(shared.Full(lane), 1);
      cuda::BarrierInit(shared.Empty(lane), 4 * T::kSharers * place.peers());
      if constexpr (T::kSeparate) {
        cuda::BarrierInit(shared.FullX(lane), 1);
        cuda::BarrierInit(shared.EmptyX(lane), 4 * T::kSharers * place.peers());
      }
    }
    if (lane == 0) {
      cuda::BarrierInit(shared.SumBarrier(), 1);
    }
    cuda::BarrierInitFence();
  }
  if (place.shares()) {
    cuda::ClusterSyncRelaxed();  // BarrierInitFence is the release
  } else {
    __syncthreads();
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
      : own_(shared.Empty(0)), peers_(place.peers()), lane_(threadIdx.x % 32) {
    peer_ = cuda::ClusterAddress(own_, place.Peer(min(lane_, peers_ - 1)));
  }

  __device__ __forceinline__ void Weights(uint32_t stage) const { Arrive(8 * stage, true); }
  __device__ __forceinline__ void X(uint32_t stage, bool really = true) const {
    Arrive(8 * stage + SharedLayout<T>::kXBarriers, really);
  }

 private:
  // No branches: one of the arrivals is predicated off.
  __device__ __forceinline__ void Arrive(uint32_t offset, bool really) const {
    cuda::BarrierArriveIf(really && peers_ == 1 && lane_ == 0, own_ + offset);
    cuda::BarrierArriveAtIf(really && peers_ > 1 && lane_ < peers_, peer_ + offset);
  }

  uint32_t own_;   // empty barrier of stage 0,
  uint32_t peer_;  // and of the CTA that this lane tells
  int peers_;
  int lane_;
};

}  // namespace dualfp::sm90
