// The K loop of FP8 with fast accumulation and of plain weights: both operands from shared memory.

#pragma once

#include "dualfp/kernels/cuda/common/wgmma.cuh"
#include "dualfp/kernels/cuda/sm90/pipeline/ring.cuh"

namespace dualfp::sm90 {

// The consumers' side. One object a thread, whose place in the ring runs on across tiles.
template <class T>
class SharedConsumer {
 public:
  float acc[T::kBlocks][T::kTokens / 2];

  __device__ SharedConsumer(const GemmParams&, const SharedLayout<T>& shared,
                            const ClusterPlace& place)
      : shared_(shared),
        // The shuffle tells the compiler that the value is uniform across the warp.
        warpgroup_(T::kPingPong ? 0 : __shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0)),
        release_(shared, place) {}

  // acc = W tile · X tileᵀ over `stages` >= 1 stages of the ring; issued() is called while the last
  // one multiplies.
  template <class Issued>
  __device__ __forceinline__ void Run(int stages, const Issued& issued) {
    for (int i = 0; i < stages; ++i) {
      cuda::BarrierWait(shared_.Full(index_.stage), index_.phase);
      cuda::WgmmaFence();
      const uint64_t x = cuda::WgmmaDescriptor128B(shared_.X(index_.stage));
      const uint64_t w = cuda::WgmmaDescriptor128B(shared_.Weights(index_.stage)) +
                         warpgroup_ * T::kBlocks * (64 * 128 / 16);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int b = 0; b < T::kBlocks; ++b) {
          Multiply(acc[b], w + b * (64 * 128 / 16) + step * 2, x + step * 2, step > 0 || i > 0);
        }
      }
      cuda::WgmmaCommit();
      cuda::WgmmaWait<1>();
      if (i > 0) {
        release_.X(Before(index_.stage));
      }
      index_.template Advance<T::kStages>();
    }
    issued();
    cuda::WgmmaWait<0>();
    release_.X(Before(index_.stage));
#pragma unroll
    for (int b = 0; b < T::kBlocks; ++b) {
      cuda::WgmmaPin(acc[b]);
    }
  }

  // Passes over stages that the other warpgroup multiplies. (A stage may be waited for when the one
  // a ring before it is full, no earlier: barriers tell even rounds from odd ones, no more.)
  __device__ __forceinline__ void Skip(int stages) {
    const uint32_t stage = index_.stage + stages;
    index_.phase ^= stage / T::kStages & 1;
    index_.stage = stage % T::kStages;
  }

 private:
  // 32 bytes of K.
  __device__ __forceinline__ static void Multiply(float (&d)[T::kTokens / 2], uint64_t w,
                                                  uint64_t x, int accumulate) {
    using Mma = cuda::Mma<T::kTokens>;
    if constexpr (T::kFormat == WeightFormat::kF16) {
      Mma::SharedF16(d, w, x, accumulate);
    } else if constexpr (T::kFormat == WeightFormat::kBf16) {
      Mma::SharedBf16(d, w, x, accumulate);
    } else {
      Mma::SharedE4m3(d, w, x, accumulate);
    }
  }

  __device__ __forceinline__ static uint32_t Before(uint32_t stage) {
    return stage == 0 ? T::kStages - 1 : stage - 1;
  }

  const SharedLayout<T>& shared_;
  RingIndex index_;
  uint32_t warpgroup_;  // among those that share a tile
  StageRelease<T> release_;
};

}  // namespace dualfp::sm90
