// The warps that fill the ring by TMA.

#pragma once

#include <type_traits>

#include "dualfp/kernels/cuda/common/tma.cuh"
#include "dualfp/kernels/cuda/sm90/pipeline/ring.cuh"

namespace dualfp::sm90 {

constexpr int kFirstCopies = 15;  // named barrier
template <class T>
constexpr int kFirstCopiesThreads = T::kConsumers + (T::kDecoded ? 64 : 32);

// A warp that fills stages of the ring with one operand: weights need not wait for the previous
// kernel, X must not queue behind a ringful of weights, and issuing a copy takes a warp longer than
// a wgmma of few columns. All operands run the same code, since a kernel's start is fetching code.
template <class T>
class Loader {
 public:
  __device__ __forceinline__ Loader(const GemmParams& p, const SharedLayout<T>& shared,
                                    const ClusterPlace& place, int operand)
      : map_(&p.maps[operand]),
        is_x_(operand == kX),
        policy_(is_x_ ? p.x_policy : p.w_policy),
        mask_(is_x_ ? place.x_mask : place.w_mask),
        offset_(is_x_ ? place.XOffset(T::kTokens) : place.WOffset(T::kRows)),
        target_(is_x_           ? shared.X(0) + offset_ * 128
                : operand == kW ? shared.Weights(0) + offset_ * T::kWRowBytes
                                : shared.Lower(0) + offset_ * T::kLowerRowBytes),
        nibble_rows_(T::kNested12 && operand == kLower ? p.n : 0),
        full_(is_x_ ? shared.FullX(0) : shared.Full(0)),
        empty_(is_x_ ? shared.EmptyX(0) : shared.Empty(0)),
        announced_(operand == kW           ? (T::kSeparate ? T::kWeightBytes : T::kStageBytes)
                   : T::kSeparate && is_x_ ? T::kXBytes
                                           : 0) {
    cuda::PrefetchTensorMap(map_);
  }

  __device__ bool is_x() const { return is_x_; }

  // The first stage of all, if there is `any`, for which only X waits: for the previous kernel.
  // Consumers may then begin (AwaitFirstCopies). In straight code, which takes a third of the time
  // of Run, and without effect unless `really`.
  __device__ __forceinline__ void Begin(int first, int k, bool any, bool really) {
    const bool is_dependent = is_x_ != T::kByToken;
    if (really && is_dependent) {
      cuda::GridWaitForPrevious();
    }
    if (any && really && cuda::ElectOne()) {
      Copy(0, k, first);
    }
    __syncwarp();
    if (really && !is_dependent) {
      cuda::NamedBarrierArrive(kFirstCopies, kFirstCopiesThreads<T>);
    }
    if (any && really) {
      index_.template Advance<T::kStages>();
    }
  }

  // `first`: the tile's first token or row; `begun`: Begin has been called for it.
  __device__ __forceinline__ void Run(int first, int k, int stages, bool begun = false) {
    if constexpr (T::kUnrolled) {
      if (!begun) {
        FinishRound();
      }
    }
    for (int i = begun ? 1 : 0; i < stages; ++i) {
      cuda::BarrierWait(empty_ + 8 * index_.stage, index_.phase ^ 1);
      if (cuda::ElectOne()) {
        Copy(index_.stage, k + i * T::kK, first);
      }
      __syncwarp();
      index_.template Advance<T::kStages>();
    }
  }

  // After the last tile: a CTA's barriers must outlive the arrivals that consumers of its cluster
  // have on their way to them.
  __device__ __forceinline__ void AwaitRelease(const ClusterPlace& place) {
    if (announced_ == 0 || !place.shares()) {
      return;
    }
#pragma unroll 1
    for (int i = 0; i < T::kStages; ++i) {
      cuda::BarrierWait(empty_ + 8 * index_.stage, index_.phase ^ 1);
      index_.template Advance<T::kStages>();
    }
  }

 private:
  static_assert(T::kXBoxes <= 2);

  // The rest of the ring's round after the tile before: stages without bytes, which who announces
  // the bytes of others completes; the others do not wait there, where nobody waits for them.
  __device__ __forceinline__ void FinishRound() {
    if (announced_ != 0) {
      while (index_.stage != 0) {
        cuda::BarrierWait(empty_ + 8 * index_.stage, index_.phase ^ 1);
        if (cuda::ElectOne()) {
          cuda::BarrierArriveExpect(full_ + 8 * index_.stage, 0);
        }
        __syncwarp();
        index_.template Advance<T::kStages>();
      }
    } else if (index_.stage != 0) {
      index_.stage = 0;
      index_.phase ^= 1;
    }
  }

  // By one thread.
  __device__ __forceinline__ void Copy(uint32_t stage, int column, int first) const {
    const uint32_t full = full_ + 8 * stage;
    const uint32_t target = target_ + stage * T::kStageBytes;
    if (announced_ != 0) {
      // All bytes that complete the barrier, other warps' and other CTAs' parts included.
      cuda::BarrierArriveExpect(full, announced_);
    }
    if (T::kNested12 && nibble_rows_ != 0) {  // see nested12_planes.h
      Load(target, full, column % cuda::kNibbleBlock / 2,
           column / cuda::kNibbleBlock * nibble_rows_ + first + offset_);
    } else {
      Load(target, full, column, first + offset_);
    }
    if (T::kXBoxes > 1 && is_x_) {
      Load(target + T::kTokens * 128, full, column + T::kXBoxElements, first + offset_);
    }
  }

  __device__ __forceinline__ void Load(uint32_t target, uint32_t barrier, int x, int y) const {
    if ((mask_ & (mask_ - 1)) != 0) {
      cuda::TmaLoad2DMulticast(target, map_, barrier, x, y, mask_, policy_);
    } else {
      cuda::TmaLoad2D(target, map_, barrier, x, y, policy_);
    }
  }

  const CUtensorMap* map_;
  bool is_x_;
  uint64_t policy_;
  uint16_t mask_;  // CTAs that share the tile
  int offset_;     // of this CTA's share of the tile
  uint32_t target_;
  int nibble_rows_;  // of the weight, where this loads nibbles
  uint32_t full_;    // barriers of stage 0
  uint32_t empty_;
  uint32_t announced_;  // bytes
  RingIndex index_;
};

// Consumers fetch their code when first copies of weights are on their way, not before.
template <class T>
__device__ __forceinline__ void AwaitFirstCopies() {
  cuda::NamedBarrierSync(kFirstCopies, kFirstCopiesThreads<T>);
}

// The loader warpgroup: a warp for each operand, which runs body(loader), the start included, and
// one that takes the CTA's slot, lets the next kernel start and then runs rest().
template <class T, class Body, class Rest>
__device__ __forceinline__ void RunLoaders(const GemmParams& p, const SharedLayout<T>& shared,
                                           const ClusterPlace& place, const SlotRequest& request,
                                           const Body& body, const Rest& rest) {
  const int warp =
      __shfl_sync(0xFFFFFFFFu, (static_cast<int>(threadIdx.x) - T::kConsumers) / 32, 0);
  if (warp < (T::kDecoded ? 3 : 2)) {
    Loader<T> loader(p, shared, place, warp);
    body(loader);
  } else {
    if (warp == 3) {
      SlotRequest answered;
      Rehearsed(p, [&](bool really) {
        TakeSlot(p.placement, answered, shared.Slot());
        if (!really) {
          answered = request;  // which waits for the counters
        }
      });
      __syncwarp();
      StartTogether<T>(place);
      LaunchDependents(p.placement);
      __syncwarp();
      rest();
    } else {
      StartTogether<T>(place);
    }
  }
  __syncwarp();
}

}  // namespace dualfp::sm90
