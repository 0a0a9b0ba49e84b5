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
    const int own_token0 = token0 + static_cast<int>(warpgroup_) * 64;
    if (p.block.parts.interleaved != 0) {
      RunStages(ScaleCursor<2>(p, first, row0, own_token0), p.block, stages);
    } else {
      RunStages(ScaleCursor<1>(p, first, row0, own_token0), p.block, stages);
    }
  }

 private:
  // Of one stage: by token, and by block and parity of weights.
  template <int kParities>
  struct Scales {
    float x[2];
    float w[kBlockScales][kParities];

    __device__ Scales() {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        x[i] = 1.0f;
#pragma unroll
        for (int j = 0; j < kBlockScales * kParities; ++j) {
          w[j / kParities][j % kParities] = 1.0f;
        }
      }
    }
  };

  // Where this lane's scales of the next stage are in p.block's arrays: of two tokens, eight apart,
  // and of the one or two blocks that the tile lies in. A lane's weights come in pairs, even and
  // odd rows, which are of two parts where parts are interleaved.
  template <int kParities>
  struct ScaleCursor {
    uint32_t x;
    uint32_t w[kBlockScales];
    int odd = 0;     // from an even row's scales to those of the next row
    int own_octets;  // of weights in the first block
    bool second;     // the second token exists

    __device__ __forceinline__ ScaleCursor(const GemmParams& p, int stage, int row0, int token0) {
      const BlockScales& b = p.block;
      const int token = token0 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
      second = token + 8 < p.m;
      x = stage * b.x_stride + min(token, p.m - 1);
      constexpr int kBlockRows = 128 * kParities;
      own_octets = (kBlockRows - row0 % kBlockRows) / 8;
      if constexpr (kParities == 2) {
        odd = (BlockRow(b.parts, row0 + 1) - BlockRow(b.parts, row0)) * b.w_stride;
      }
#pragma unroll
      for (int i = 0; i < kBlockScales; ++i) {
        // This lane's own row, lest scales become uniform registers, which wait to be filled.
        const int row = row0 + i * (own_octets * 8) + threadIdx.x % 4 * 2;
        w[i] = BlockRow(b.parts, min(row, p.n - 2)) * b.w_stride + stage;
      }
    }

    __device__ __forceinline__ Scales<kParities> Next(const BlockScales& b) {
      Scales<kParities> scales;
#pragma unroll
      for (int i = 0; i < kBlockScales; ++i) {
#pragma unroll
        for (int parity = 0; parity < kParities; ++parity) {
          scales.w[i][parity] = b.w == nullptr ? 1.0f : b.w[w[i] + parity * odd];
        }
        ++w[i];
      }
      scales.x[0] = b.x == nullptr ? 1.0f : b.x[x];
      scales.x[1] = b.x == nullptr || !second ? 1.0f : b.x[x + 8];
      x += b.x_stride;
      return scales;
    }
  };

  template <int kParities>
  __device__ __forceinline__ void RunStages(ScaleCursor<kParities> cursor, const BlockScales& b,
                                            int stages) {
    // Scales are asked for a stage early, and a second one where two stages are under way, so that
    // nothing waits when ptxas multiplies them before the products of the stage after theirs. The
    // branches keep the loads behind the products that have just been started: a warpgroup that
    // does anything before these leaves the tensor cores idle.
    const bool scaled = b.w != nullptr || b.x != nullptr;
    const int own_octets = cursor.own_octets;
    if constexpr (!T::kTwoStages) {
      Scales<kParities> next;
      if (scaled) {
        next = cursor.Next(b);
      }
      for (int i = 0; i < stages; ++i) {
        const Scales<kParities> scales = next;
        float part[T::kTokens / 2];
        Multiply(part);
        if (scaled && i + 1 < stages) {
          next = cursor.Next(b);
        }
        Add<0>(part, scales, own_octets);
      }
    } else {
      float even[T::kTokens / 2];
      float odd[T::kTokens / 2];
      Scales<kParities> of_even;
      Scales<kParities> of_odd;
      if (scaled) {
        of_even = cursor.Next(b);
      }
      if (scaled && stages > 1) {
        of_odd = cursor.Next(b);
      }
      Multiply(even);
      int i = 1;
      for (; i + 1 < stages; i += 2) {
        Multiply(odd);
        Scales<kParities> next = of_even;
        if (scaled) {
          next = cursor.Next(b);
        }
        Add<1>(even, of_even, own_octets);
        of_even = next;
        Multiply(even);
        next = of_odd;
        if (scaled && i + 2 < stages) {
          next = cursor.Next(b);
        }
        Add<1>(odd, of_odd, own_octets);
        of_odd = next;
      }
      if (i < stages) {
        Multiply(odd);
        Add<1>(even, of_even, own_octets);
        Add<0>(odd, of_odd, own_octets);
      } else {
        Add<0>(even, of_even, own_octets);
      }
    }
  }

  // Starts to multiply the next stage; who comes before may still multiply.
  __device__ __forceinline__ void Multiply(float (&part)[T::kTokens / 2]) {
    cuda::BarrierWait(shared_.Full(index_.stage), index_.phase);
    StartStage<T::kTokens>(part, shared_.Weights(index_.stage) + warpgroup_ * (64 * 128),
                           shared_.X(index_.stage));
    index_.template Advance<T::kStages>();
  }

  // Adds the products of a stage after which kPending others have been started.
  template <int kPending, int kParities>
  __device__ __forceinline__ void Add(float (&part)[T::kTokens / 2],
                                      const Scales<kParities>& scales, int own_octets) {
    cuda::WgmmaWait<kPending>();
    cuda::WgmmaPin(part);
    release_.X(Before(index_.stage, 1 + kPending));
#pragma unroll
    for (int run = 0; run < T::kTokens / 8; run += kRun) {
      const bool own = run == 0 || run < own_octets;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int parity = 0; parity < 2; ++parity) {
          const int of = parity % kParities;
          const float scale =
              scales.x[h] * (own ? scales.w[0][of] : scales.w[kBlockScales - 1][of]);
#pragma unroll
          for (int octet = run; octet < run + kRun; ++octet) {
            const int j = 4 * octet + 2 * h + parity;
            acc[0][j] = fmaf(part[j], scale, acc[0][j]);
          }
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
