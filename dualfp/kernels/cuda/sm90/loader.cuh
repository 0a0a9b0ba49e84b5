// The warps that fill the ring by TMA.

#pragma once

#include <type_traits>

#include "dualfp/kernels/cuda/common/tma.cuh"
#include "dualfp/kernels/cuda/sm90/ring.cuh"

namespace dualfp::sm90 {

// Fills stages of the ring. Each operand has a warp of its own: weights need not wait for the
// previous kernel, X must not queue behind a ringful of weights, and issuing a copy takes a warp
// longer than a wgmma of few columns.
template <class T>
class Loader {
 public:
  enum class Operand { kWeights, kLower, kX };

  // Weights: `first` is the tile's row; X: its token.
  template <Operand kOperand>
  __device__ __forceinline__ static void Run(const GemmParams& p, const SharedLayout<T>& shared,
                                             const ClusterPlace& place, RingIndex& index, int first,
                                             int k, int stages) {
    constexpr bool kIsX = kOperand == Operand::kX;
    const int shares = kIsX ? place.shape.share_x : place.shape.share_w;
    const int rank = kIsX ? place.x_rank : place.w_rank;
    const int offset = rank * ((kIsX ? T::kTokens : T::kRows) / shares);
    const uint16_t mask = kIsX ? place.XMask() : place.WMask();
    if constexpr (T::kUnrolled) {
      FinishRound<kOperand>(shared, index);
    }
    for (int i = 0; i < stages; ++i) {
      cuda::BarrierWait(kIsX ? shared.EmptyX(index.stage) : shared.Empty(index.stage),
                        index.phase ^ 1);
      if (cuda::ElectOne()) {
        const uint32_t full = kIsX ? shared.FullX(index.stage) : shared.Full(index.stage);
        const int column = k + i * T::kK;
        if constexpr (kOperand == Operand::kWeights) {
          // All bytes that complete the barrier, other warps' and other CTAs' parts included.
          cuda::BarrierArriveExpect(full, T::kSeparate ? T::kWeightBytes : T::kStageBytes);
          Load(shared.Weights(index.stage) + offset * T::kK, &p.w, full, column, first + offset,
               shares, mask, p.w_policy);
        } else if constexpr (kOperand == Operand::kLower) {
          Load(shared.Lower(index.stage) + offset * T::kK, &p.w_lower, full, column, first + offset,
               shares, mask, p.w_policy);
        } else {
          if constexpr (T::kSeparate) {
            cuda::BarrierArriveExpect(full, T::kXBytes);
          }
#pragma unroll
          for (int box = 0; box < T::kXBoxes; ++box) {
            Load(shared.X(index.stage) + (box * T::kTokens + offset) * 128, &p.x, full,
                 column + box * T::kXBoxElements, first + offset, shares, mask, p.x_policy);
          }
        }
      }
      __syncwarp();
      index.template Advance<T::kStages>();
    }
  }

 private:
  // The rest of the ring's round after the tile before: stages without bytes, which who announces
  // the bytes of others completes; the others do not wait there, where nobody waits for them.
  template <Operand kOperand>
  __device__ __forceinline__ static void FinishRound(const SharedLayout<T>& shared,
                                                     RingIndex& index) {
    constexpr bool kIsX = kOperand == Operand::kX;
    if constexpr (kOperand == Operand::kWeights || (kIsX && T::kSeparate)) {
      while (index.stage != 0) {
        cuda::BarrierWait(kIsX ? shared.EmptyX(index.stage) : shared.Empty(index.stage),
                          index.phase ^ 1);
        if (cuda::ElectOne()) {
          cuda::BarrierArriveExpect(kIsX ? shared.FullX(index.stage) : shared.Full(index.stage), 0);
        }
        __syncwarp();
        index.template Advance<T::kStages>();
      }
    } else if (index.stage != 0) {
      index.stage = 0;
      index.phase ^= 1;
    }
  }

  __device__ __forceinline__ static void Load(uint32_t target, const CUtensorMap* map,
                                              uint32_t barrier, int x, int y, int shares,
                                              uint16_t mask, uint64_t policy) {
    if (shares > 1) {
      cuda::TmaLoad2DMulticast(target, map, barrier, x, y, mask, policy);
    } else {
      cuda::TmaLoad2D(target, map, barrier, x, y, policy);
    }
  }
};

// Runs body(operand) in the warp of the loader warpgroup that loads that operand, X after the
// previous kernel.
template <class T, class Body>
__device__ __forceinline__ void ForEachOperand(const GemmParams& p, const Body& body) {
  using Operand = typename Loader<T>::Operand;
  const int warp = __shfl_sync(0xFFFFFFFFu, (threadIdx.x - T::kConsumers) / 32, 0);
  if (warp == 0) {
    if constexpr (T::kByToken) {
      cuda::PrefetchTensorMap(&p.w);
      cuda::GridWaitForPrevious();
    }
    body(std::integral_constant<Operand, Operand::kWeights>());
  } else if (warp == 1) {
    if constexpr (!T::kByToken) {
      cuda::PrefetchTensorMap(&p.x);
      cuda::GridWaitForPrevious();
    }
    body(std::integral_constant<Operand, Operand::kX>());
  } else if (T::kNested && warp == 2) {
    body(std::integral_constant<Operand, Operand::kLower>());
  }
}

}  // namespace dualfp::sm90
