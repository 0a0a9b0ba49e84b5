// The K loop of promoted FP8 products (promoted.cuh) in tiles by token (Sharing::kByToken), for
// many tokens: a lane holds values of two tokens only, so that a stage has few scales.

#pragma once

#include <numeric>

#include "dualfp/kernels/cuda/sm90/mainloop/promoted.cuh"

namespace dualfp::sm90 {

// Beside PromotedConsumer. In tiles of kTwoStages one stage multiplies while the one before is
// added; in others another warpgroup multiplies meanwhile.
template <class T>
class PromotedByTokenConsumer {
 public:
  float acc[T::kBlocks][T::kTokens / 2];

  static_assert(T::kBlocks == 1 && T::kK == 128);
  // Tiles begin at multiples of their weights: none lies in more than two blocks of 128, and blocks
  // end between runs of this many octets of weights.
  static constexpr int kRun = std::gcd(T::kTokens, 128) / 8;
  static constexpr int kBlockScales = kRun * 8 == T::kTokens ? 1 : 2;
  static_assert(T::kTokens / 8 <= 16 + kRun);

  __device__ PromotedByTokenConsumer(const GemmParams&, const SharedLayout<T>& shared,
                                     const ClusterPlace& place)
      : shared_(shared),
        release_(shared, place),
        warpgroup_(__shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0)) {}

  // acc = X tile · W tileᵀ over stages `first`, first + 1, ... of the problem's K; weights from
  // row0, tokens from token0 on.
  __device__ __forceinline__ void Run(const GemmParams& p, int first, int stages, int row0,
                                      int token0) {
#pragma unroll
    for (int i = 0; i < T::kTokens / 2; ++i) {
      acc[0][i] = 0.0f;
    }
    if (p.block.x != nullptr) {
      cuda::GridWaitForPrevious();  // which may have computed them
    }
    const ScalePlace place(p, row0, token0 + static_cast<int>(warpgroup_) * 64);
    if constexpr (!T::kTwoStages) {
      Scales next(p.block, place, first);
      for (int i = 0; i < stages; ++i) {
        float part[T::kTokens / 2];
        const Scales scales = next;
        Multiply(part);
        if (i + 1 < stages) {
          next = Scales(p.block, place, first + i + 1);
        }
        Add<0>(part, scales, place);
      }
    } else {
      float even[T::kTokens / 2];
      float odd[T::kTokens / 2];
      Scales of_even(p.block, place, first);
      Multiply(even);
      int i = 1;
      for (; i + 1 < stages; i += 2) {
        const Scales of_odd(p.block, place, first + i);
        Multiply(odd);
        Add<1>(even, of_even, place);
        of_even = Scales(p.block, place, first + i + 1);
        Multiply(even);
        Add<1>(odd, of_odd, place);
      }
      if (i < stages) {
        const Scales of_odd(p.block, place, first + i);
        Multiply(odd);
        Add<1>(even, of_even, place);
        Add<0>(odd, of_odd, place);
      } else {
        Add<0>(even, of_even, place);
      }
    }
  }

 private:
  // Where this lane's scales are: of two tokens, eight apart, and of the one or two blocks that the
  // tile lies in. A lane's weights come in pairs, even and odd rows, which may be of two parts.
  // Places in p.block's arrays, not pointers: registers are short.
  struct ScalePlace {
    int x[2];
    int w[kBlockScales];
    int odd;         // from an even row's scales to those of the next row
    int own_octets;  // of weights in the first block

    __device__ ScalePlace(const GemmParams& p, int row0, int token0) {
      const BlockScales& b = p.block;
      const int token = token0 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
      const int block_rows = b.parts.interleaved != 0 ? 256 : 128;
      own_octets = (block_rows - row0 % block_rows) / 8;
      odd = b.parts.interleaved != 0
                ? (b.parts.BlockRow(row0 + 1) - b.parts.BlockRow(row0)) * b.w_stride
                : 0;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        x[h] = min(token + 8 * h, p.m - 1);
      }
#pragma unroll
      for (int i = 0; i < kBlockScales; ++i) {
        w[i] = b.parts.BlockRow(min(row0 + i * (own_octets * 8), p.n - 2)) * b.w_stride;
      }
    }
  };

  // Of one stage: by token, and by block and parity of weights. Asked for a stage early, so that
  // nothing waits.
  struct Scales {
    float x[2];
    float w[kBlockScales][2];

    __device__ __forceinline__ Scales(const BlockScales& b, const ScalePlace& place, int stage) {
#pragma unroll
      for (int i = 0; i < kBlockScales; ++i) {
        w[i][0] = b.w == nullptr ? 1.0f : __ldg(b.w + place.w[i] + stage);
        w[i][1] = b.w == nullptr ? 1.0f : __ldg(b.w + place.w[i] + place.odd + stage);
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        x[h] = b.x == nullptr ? 1.0f : b.x[static_cast<int64_t>(stage) * b.x_stride + place.x[h]];
      }
    }
  };

  // Starts to multiply the next stage; who comes before may still multiply.
  __device__ __forceinline__ void Multiply(float (&part)[T::kTokens / 2]) {
    cuda::BarrierWait(shared_.Full(index_.stage), index_.phase);
    StartStage<T::kTokens>(part, shared_.Weights(index_.stage) + warpgroup_ * (64 * 128),
                           shared_.X(index_.stage));
    index_.template Advance<T::kStages>();
  }

  // Adds the products of a stage after which kPending others have been started.
  template <int kPending>
  __device__ __forceinline__ void Add(float (&part)[T::kTokens / 2], const Scales& scales,
                                      const ScalePlace& place) {
    cuda::WgmmaWait<kPending>();
    cuda::WgmmaPin(part);
    release_.X(Before(index_.stage, 1 + kPending));
#pragma unroll
    for (int run = 0; run < T::kTokens / 8; run += kRun) {
      const bool own = run == 0 || run < place.own_octets;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float even = scales.x[h] * (own ? scales.w[0][0] : scales.w[kBlockScales - 1][0]);
        const float odd = scales.x[h] * (own ? scales.w[0][1] : scales.w[kBlockScales - 1][1]);
#pragma unroll
        for (int octet = run; octet < run + kRun; ++octet) {
          const int j = 4 * octet + 2 * h;
          acc[0][j] = fmaf(part[j], even, acc[0][j]);
          acc[0][j + 1] = fmaf(part[j + 1], odd, acc[0][j + 1]);
        }
      }
    }
  }

  __device__ __forceinline__ static uint32_t Before(uint32_t stage, uint32_t count) {
    return stage < count ? stage + T::kStages - count : stage - count;
  }

  const SharedLayout<T>& shared_;
  RingIndex index_;
  StageRelease<T> release_;
  uint32_t warpgroup_;
};

}  // namespace dualfp::sm90
