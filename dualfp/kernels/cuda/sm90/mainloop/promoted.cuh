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

// RowParts::BlockRow without indexing constants: one that nobody has read yet costs 300 cycles.
__device__ __forceinline__ int BlockRow(const RowParts& parts, int row) {
  if (parts.interleaved != 0) {
    return ((row % 2 != 0 ? parts.scale_base[1] : parts.scale_base[0]) + row / 2) / 128;
  }
  const int offset = row >= parts.first_row[2]   ? parts.scale_base[2] - parts.first_row[2]
                     : row >= parts.first_row[1] ? parts.scale_base[1] - parts.first_row[1]
                                                 : parts.scale_base[0];
  return (row + offset) / 128;
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
        warpgroup_(__shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0)) {}

  // acc = W tile · X tileᵀ over stages `first`, first + 1, ... of the problem's K.
  __device__ __forceinline__ void Run(const GemmParams& p, int first, int stages, int row0,
                                      int token0) {
#pragma unroll
    for (int i = 0; i < T::kTokens / 2; ++i) {
      acc[0][i] = 0.0f;
    }
    const bool scaled = p.block.w != nullptr || p.block.x != nullptr;
    Scales next;
    ScaleCursor cursor;
    if (scaled) {
      cuda::GridWaitForPrevious();  // which may have computed scales of X
      cursor = ScaleCursor(p, first, row0, token0);
      cursor.Next(p.block, next);
    }
    for (int i = 0; i < stages; ++i) {
      const Scales scales = next;
      float part[T::kTokens / 2];
      cuda::BarrierWait(shared_.Full(index_.stage), index_.phase);
      StartStage<T::kTokens>(part, shared_.Weights(index_.stage) + warpgroup_ * (64 * 128),
                             shared_.X(index_.stage));
      if (scaled && i + 1 < stages) {
        cursor.Next(p.block, next);
      }
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

  // Where this lane's scales of the next stage are, in p.block's arrays: two registers fewer than
  // pointers. They are asked for a stage early, so that nothing waits for them.
  struct ScaleCursor {
    uint32_t w = 0;
    uint32_t x = 0;
    int tokens = 0;  // of the problem, from this lane's first on

    __device__ ScaleCursor() = default;
    __device__ __forceinline__ ScaleCursor(const GemmParams& p, int stage, int row0, int token0) {
      const int lane = threadIdx.x % 32;
      const int row = min(row0 + static_cast<int>(threadIdx.x / 32 * 16) + lane / 4, p.n - 1);
      const int token = token0 + lane % 4 * 2;
      tokens = p.m - token;
      w = BlockRow(p.block.parts, row) * p.block.w_stride + stage;
      x = stage * p.block.x_stride + token;
    }

    __device__ __forceinline__ void Next(const BlockScales& b, Scales& scales) {
      scales.w = b.w == nullptr ? 1.0f : __ldg(b.w + w);
      ++w;
#pragma unroll
      for (int j = 0; j < T::kTokens / 8; ++j) {
        scales.x[j] = b.x == nullptr   ? float2{1.0f, 1.0f}
                      : 8 * j < tokens ? *reinterpret_cast<const float2*>(b.x + x + 8 * j)
                                       : float2{0.0f, 0.0f};
      }
      x += b.x_stride;
    }
  };

  const SharedLayout<T>& shared_;
  RingIndex index_;
  StageRelease<T> release_;
  uint32_t warpgroup_;
};

}  // namespace dualfp::sm90
