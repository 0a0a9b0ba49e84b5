// FP8 products whose sums leave the tensor cores every 128 of K. Hopper adds E4M3 products in
// registers of about 14 significant bits; here each stage starts from zero and its sum is added in
// FP32, multiplied by the scales of its 128x128 block of W and 1x128 group of X where there are
// any.

#pragma once

#include "dualfp/kernels/cuda/common/wgmma.cuh"
#include "dualfp/kernels/cuda/sm90/pipeline/ring.cuh"

namespace dualfp::sm90 {

// Starts part = A · Bᵀ of one stage, 128 elements of K: 64 rows of A and kColumns of B at these
// shared addresses.
template <int kColumns, int kSums>
__device__ __forceinline__ void StartStage(float (&part)[kSums], uint32_t a, uint32_t b) {
  static_assert(kSums == kColumns / 2);
  cuda::WgmmaFence();
  const uint64_t first_a = cuda::WgmmaDescriptor128B(a);
  const uint64_t first_b = cuda::WgmmaDescriptor128B(b);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    cuda::Mma<kColumns>::SharedE4m3(part, first_a + step * 2, first_b + step * 2, step > 0);
  }
  cuda::WgmmaCommit();
}

// Beside SharedConsumer: the same accumulators, the same ring.
template <class T>
class PromotedConsumer {
 public:
  float acc[T::kBlocks][T::kTokens / 2];

  static_assert(!T::kPromoted || (T::kBlocks == 1 && T::kK == 128 && T::kTokens <= 128));

  __device__ PromotedConsumer(const GemmParams&, const SharedLayout<T>& shared,
                              const ClusterPlace& place)
      : shared_(shared),
        release_(shared, place),
        warpgroup_(__shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0)),
        lane_(threadIdx.x % 32) {}

  // acc = W tile · X tileᵀ over stages `first`, first + 1, ... of the problem's K.
  __device__ __forceinline__ void Run(const GemmParams& p, int first, int stages, int row0,
                                      int token0) {
#pragma unroll
    for (int i = 0; i < T::kTokens / 2; ++i) {
      acc[0][i] = 0.0f;
    }
    const bool scaled = p.block.w != nullptr || p.block.x != nullptr;
    Scales next;
    if (scaled) {
      cuda::GridWaitForPrevious();  // which may have computed scales of X
      Fetch(p, first, row0, token0, next);
    }
    for (int i = 0; i < stages; ++i) {
      const Scales scales = next;
      if (scaled && i + 1 < stages) {
        Fetch(p, first + i + 1, row0, token0, next);
      }
      float part[T::kTokens / 2];
      cuda::BarrierWait(shared_.Full(index_.stage), index_.phase);
      StartStage<T::kTokens>(part, shared_.Weights(index_.stage) + warpgroup_ * (64 * 128),
                             shared_.X(index_.stage));
      cuda::WgmmaWait<0>();
      cuda::WgmmaPin(part);
      release_.X(index_.stage);
      index_.template Advance<T::kStages>();
      if (scaled) {
#pragma unroll
        for (int j = 0; j < T::kTokens / 8; ++j) {
          const float2 scale = {scales.x[j].x * scales.w, scales.x[j].y * scales.w};
          acc[0][4 * j] = fmaf(part[4 * j], scale.x, acc[0][4 * j]);
          acc[0][4 * j + 1] = fmaf(part[4 * j + 1], scale.y, acc[0][4 * j + 1]);
          acc[0][4 * j + 2] = fmaf(part[4 * j + 2], scale.x, acc[0][4 * j + 2]);
          acc[0][4 * j + 3] = fmaf(part[4 * j + 3], scale.y, acc[0][4 * j + 3]);
        }
      } else {
#pragma unroll
        for (int j = 0; j < T::kTokens / 2; ++j) {
          acc[0][j] += part[j];
        }
      }
    }
  }

 private:
  struct Scales {
    float2 x[T::kTokens / 8];
    float w;
  };

  // Of one stage, for the rows and tokens of this lane's accumulators. Issued a stage early, so
  // that nothing waits for them.
  __device__ __forceinline__ void Fetch(const GemmParams& p, int stage, int row0, int token0,
                                        Scales& scales) {
    const BlockScales& b = p.block;
    const int row = min(row0 + static_cast<int>(threadIdx.x / 32 * 16 + lane_ / 4), p.n - 1);
    scales.w = b.w == nullptr ? 1.0f : __ldg(b.w + b.parts.BlockRow(row) * b.w_stride + stage);
    if (b.x == nullptr) {
#pragma unroll
      for (float2& scale : scales.x) {
        scale = {1.0f, 1.0f};
      }
      return;
    }
    const float* x = b.x + static_cast<int64_t>(stage) * b.x_stride + token0 + lane_ % 4 * 2;
#pragma unroll
    for (int j = 0; j < T::kTokens / 8; ++j) {
      const int token = token0 + 8 * j + static_cast<int>(lane_ % 4) * 2;
      scales.x[j] = token < p.m ? *reinterpret_cast<const float2*>(x + 8 * j) : float2{0.0f, 0.0f};
    }
  }

  const SharedLayout<T>& shared_;
  RingIndex index_;
  StageRelease<T> release_;
  uint32_t warpgroup_;
  uint32_t lane_;
};

}  // namespace dualfp::sm90
