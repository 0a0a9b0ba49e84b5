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
      Scales next(place, first);
      for (int i = 0; i < stages; ++i) {
        float part[T::kTokens / 2];
        const Scales scales = next;
        Multiply(part);
        if (i + 1 < stages) {
          next = Scales(place, first + i + 1);
        }
        Add<0>(part, scales, place);
      }
    } else {
      float even[T::kTokens / 2];
      float odd[T::kTokens / 2];
      Scales of_even(place, first);
      Multiply(even);
      int i = 1;
      for (; i + 1 < stages; i += 2) {
        const Scales of_odd(place, first + i);
        Multiply(odd);
        Add<1>(even, of_even, place);
        of_even = Scales(place, first + i + 1);
        Multiply(even);
        Add<1>(odd, of_odd, place);
      }
      if (i < stages) {
        const Scales of_odd(place, first + i);
        Multiply(odd);
        Add<1>(even, of_even, place);
        Add<0>(odd, of_odd, place);
      } else {
        Add<0>(even, of_even, place);
      }
    }
  }

 private:
  // Where this lane's scales are: of two tokens, eight apart, and of the one or two blocks of 128
  // weights that the tile lies in.
  struct ScalePlace {
    const float* x[2];
    const float* w[kBlockScales];
    int64_t x_stride;
    int own_octets;  // of weights in the first block

    __device__ ScalePlace(const GemmParams& p, int row0, int token0) {
      const BlockScales& b = p.block;
      const int token = token0 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
      x_stride = b.x_stride;
      own_octets = (128 - row0 % 128) / 8;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        x[h] = b.x == nullptr ? nullptr : b.x + min(token + 8 * h, p.m - 1);
      }
#pragma unroll
      for (int i = 0; i < kBlockScales; ++i) {
        const int block = min(row0 + i * (own_octets * 8), p.n - 1) / 128;
        w[i] = b.w == nullptr ? nullptr : b.w + static_cast<int64_t>(block) * b.w_stride;
      }
    }
  };

  // Of one stage: by token and block of weights. Asked for a stage early, so that nothing waits.
  struct Scales {
    float of[2][kBlockScales];

    __device__ __forceinline__ Scales(const ScalePlace& place, int stage) {
      float w[kBlockScales];
#pragma unroll
      for (int i = 0; i < kBlockScales; ++i) {
        w[i] = place.w[i] == nullptr ? 1.0f : __ldg(place.w[i] + stage);
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float x = place.x[h] == nullptr ? 1.0f : place.x[h][stage * place.x_stride];
#pragma unroll
        for (int i = 0; i < kBlockScales; ++i) {
          of[h][i] = x * w[i];
        }
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
        const float scale = own ? scales.of[h][0] : scales.of[h][kBlockScales - 1];
#pragma unroll
        for (int octet = run; octet < run + kRun; ++octet) {
          const int j = 4 * octet + 2 * h;
          acc[0][j] = fmaf(part[j], scale, acc[0][j]);
          acc[0][j + 1] = fmaf(part[j + 1], scale, acc[0][j + 1]);
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
