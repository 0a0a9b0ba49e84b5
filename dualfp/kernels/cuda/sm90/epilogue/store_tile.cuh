// Accumulators of a warpgroup on their way to Y in the persistent kernels.

#pragma once

#include <type_traits>

#include "dualfp/kernels/cuda/common/matrix.cuh"
#include "dualfp/kernels/cuda/sm90/epilogue/epilogue.cuh"
#include "dualfp/kernels/cuda/sm90/epilogue/partial_sums.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop/consumer.cuh"

namespace dualfp::sm90 {

template <class T>
using StoreConstants =
    std::conditional_t<T::kByToken, TileConstants<64 * T::kBlocks, T::kTokens, 128>,
                       TileConstants<T::kTokens, 64 * T::kBlocks, 128>>;

// What an accumulator needs on its way, most tiles the least: plain values want their token's scale
// (FP8) or nothing (16 bits), scaled ones a row's scale and bias too, finished ones an activation
// or a residual. The output type of plain ones is known at compile time: while they store, warps
// have little to hide instructions behind.
enum class StoreKind { kPlainF16, kPlainBf16, kScaled, kFinished };

template <class T>
__device__ __forceinline__ StoreKind StoreKindOf(const Epilogue& e) {
  const bool row_scales = e.w_scale != nullptr && e.w_scale_stride != 0;
  const bool scaled = e.x_scale != nullptr || e.w_scale != nullptr || e.alpha != 1.0f;
  if (e.silu_mul || e.residual != nullptr) {
    return StoreKind::kFinished;
  }
  if (row_scales || (!T::kFp8 && scaled) || e.bias != nullptr) {
    return StoreKind::kScaled;
  }
  return e.y_type == OutputType::kBf16 ? StoreKind::kPlainBf16 : StoreKind::kPlainF16;
}

// Of the two rows, eight apart, that a lane holds of a block of 64.
struct RowConstants {
  float scale[2];
  float bias[2];

  template <class Constants>
  __device__ __forceinline__ RowConstants(const Constants& constants, int block) {
    const int row = block * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      scale[h] = LoadShared(constants.row_scale + 4 * (row + 8 * h));
      bias[h] = LoadShared(constants.row_bias + 4 * (row + 8 * h));
    }
  }
};

// Two accumulators of one row (h = 0, 1) and two tokens.
template <bool kScaled, class T>
__device__ __forceinline__ float2 Scale(const float* d, float2 token_scale,
                                        const RowConstants& rows, int h) {
  if constexpr (kScaled) {
    return {d[0] * (token_scale.x * rows.scale[h]) + rows.bias[h],
            d[1] * (token_scale.y * rows.scale[h]) + rows.bias[h]};
  } else if constexpr (T::kFp8) {
    return {d[0] * token_scale.x, d[1] * token_scale.y};
  } else {
    return {d[0], d[1]};
  }
}

// Chunks of tokens are turned around in staging memory, [token][64 rows] of 128 bytes. The eight
// 16-byte parts of a token change places by token, as the copy engine's 128-byte swizzle has it,
// which keeps stmatrix and the loads free of bank conflicts.
template <class T>
struct Chunks {
  static constexpr int kTokens = StoreChunkTokens(T::kTokens);
  static constexpr int kBytes = kTokens * 128;
  static constexpr int kCount = T::kTokens / kTokens;
  static constexpr int kColumns = kTokens / 8;  // of 8 tokens

  // Values of 8 tokens a column, rounded; `lane_scale` is where the scales of this lane's first two
  // tokens are.
  template <bool kScaled>
  __device__ __forceinline__ static void Pack(const float* acc, uint32_t lane_scale,
                                              const RowConstants& rows, OutputType type,
                                              uint32_t (&packed)[2 * kColumns]) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      float2 scale;
      if constexpr (kScaled || T::kFp8) {
        scale = LoadShared2(lane_scale + i * 32);
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float2 v = Scale<kScaled, T>(acc + 4 * i + 2 * h, scale, rows, h);
        packed[2 * i + h] = sm90::Pack(v.x, v.y, type);
      }
    }
  }

  // stmatrix: this lane addresses 16 bytes (8 of the warp's 16 rows) of one of 16 tokens.
  __device__ __forceinline__ static void Turn(const uint32_t (&packed)[2 * kColumns],
                                              uint32_t lane_target) {
#pragma unroll
    for (int i = 0; i < kColumns; i += 2) {
      if (i + 1 < kColumns) {
        cuda::StoreMatrix4Transposed(lane_target + i * 8 * 128, packed[2 * i], packed[2 * i + 1],
                                     packed[2 * i + 2], packed[2 * i + 3]);
      } else {
        cuda::StoreMatrix2Transposed(lane_target + i * 8 * 128 - threadIdx.x % 32 / 16 * 8 * 128,
                                     packed[2 * i], packed[2 * i + 1]);
      }
    }
  }
  __device__ static uint32_t LaneTarget(uint32_t staging) {
    const int warp = threadIdx.x % 128 / 32;
    const int lane = threadIdx.x % 32;
    return staging + (lane / 16 * 8 + lane % 8) * 128 +
           (((warp * 2 + lane / 8 % 2) ^ (lane % 8)) << 4);
  }
};

// Through two staging buffers in turn, from where the threads store whole 128-byte lines of Y.
template <bool kScaled, class T>
__device__ __forceinline__ void StoreByThreads(const GemmParams& p, const ConsumerOf<T>& consumer,
                                               const StoreConstants<T>& constants, uint32_t staging,
                                               int row0, int token0, TokenRange range,
                                               OutputType type) {
  using C = Chunks<T>;
  const Epilogue& e = p.epilogue;
  const int thread = threadIdx.x % 128;
  uint32_t target = C::LaneTarget(staging);
  // Each thread stores 16 bytes of every 16th token.
  const int own = thread / 8;
  uint32_t read = staging + own * 128 + ((thread % 8 ^ own % 8) << 4);
  uint32_t scales = constants.token_scale + thread % 4 * 8;
  int to_other = C::kBytes;
  int left = p.m - token0 - own;  // tokens from this thread's first on
  const int64_t row_bytes = e.y_stride * 2;
  // The compiler would compute these again for every chunk.
  asm("" : "+r"(target), "+r"(read), "+r"(scales), "+r"(left));
  // What lies behind a chunk is another's.
  const auto in_chunk = [own](int i) {
    return C::kTokens >= 16 * (i + 1) || own < C::kTokens - 16 * i;
  };
#pragma unroll
  for (int block = 0; block < T::kBlocks; ++block) {
    const RowConstants rows(constants, block);
    const int row = row0 + block * 64 + thread % 8 * 8;
    uint8_t* y = static_cast<uint8_t*>(e.y) + ((token0 + own) * e.y_stride + row) * 2;
    const int tokens = row < p.n ? left : 0;
#pragma unroll
    for (int chunk = 0; chunk < C::kCount; ++chunk) {
      uint8_t* first = y;
      y += C::kTokens * row_bytes;
      if (!range.Holds(chunk * C::kTokens)) {
        continue;
      }
      uint32_t packed[2 * C::kColumns];
      C::template Pack<kScaled>(consumer.acc[block] + chunk * C::kTokens / 2,
                                scales + chunk * C::kTokens * 4, rows, type, packed);
      C::Turn(packed, target);
      WarpgroupSync();
      constexpr int kReads = CeilDiv(C::kTokens, 16);
      float4 bits[kReads];
#pragma unroll
      for (int i = 0; i < kReads; ++i) {
        bits[i] = LoadShared4(read + (in_chunk(i) ? i * 16 * 128 : 0));
      }
#pragma unroll
      for (int i = 0; i < kReads; ++i) {
        StoreGlobalIf(in_chunk(i) && chunk * C::kTokens + i * 16 < tokens,
                      first + i * 16 * row_bytes, bits[i]);
      }
      target += to_other;
      read += to_other;
      to_other = -to_other;
    }
  }
}

// Activation and residual want FP32 values of neighbouring rows in one thread. They
// are turned around as [token][64 rows] of 256 bytes, whose 16-byte parts change places so that
// writes are free of bank conflicts.
template <class T>
__device__ __forceinline__ void StoreFinished(const GemmParams& p, const ConsumerOf<T>& consumer,
                                              const StoreConstants<T>& constants, uint32_t staging,
                                              int row0, int token0, TokenRange range) {
  constexpr int kRound = Chunks<T>::kTokens == 32 ? 16 : 8;  // tokens, in two buffers in turn
  constexpr int kRounds = T::kTokens / kRound;
  constexpr int kValues = kRound / 2;     // of a thread in a round
  constexpr int kThreads = 64 / kValues;  // of a token
  static_assert(kRounds == 1 || 2 * kRound * 256 <= T::kWarpgroupStagingBytes);
  const int thread = threadIdx.x % 128;
  const int lane = thread % 32;
  uint32_t scales = constants.token_scale + lane % 4 * 8;
  // This lane's two rows lie in parts two from each other; all its tokens' parts change places
  // alike.
  const int part = (thread / 32 * 4 + lane / 16) ^ (lane % 4 * 2);
  uint32_t write = staging + lane % 4 * 512 + lane / 4 % 4 * 4 + (part << 4);
  const int own = thread / kThreads;  // token
  const int own_part = thread % kThreads * (kValues / 4) ^ own / 2 % 4 * 2;
  uint32_t read = staging + own * 256 + (own_part << 4);
  int to_other = kRound * 256;
  // The compiler would compute these again for every round.
  asm("" : "+r"(scales), "+r"(write), "+r"(read));
#pragma unroll
  for (int block = 0; block < T::kBlocks; ++block) {
    const RowConstants rows(constants, block);
    const int row = row0 + block * 64 + thread % kThreads * kValues;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (!range.Holds(round * kRound)) {
        continue;
      }
#pragma unroll
      for (int i = 0; i < kRound / 8; ++i) {
        const int column = round * kRound / 8 + i;
        const float2 scale = LoadShared2(scales + column * 32);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float2 v = Scale<true, T>(consumer.acc[block] + 4 * column + 2 * h, scale, rows, h);
          StoreShared((write ^ h * 32) + i * 2048, v.x);
          StoreShared((write ^ h * 32) + i * 2048 + 256, v.y);
        }
      }
      WarpgroupSync();
      float v[kValues];
#pragma unroll
      for (int i = 0; i < kValues / 4; ++i) {
        const float4 f = LoadShared4(read ^ i << 4);  // own_part is even where there are two
        v[4 * i] = f.x;
        v[4 * i + 1] = f.y;
        v[4 * i + 2] = f.z;
        v[4 * i + 3] = f.w;
      }
      const int token = token0 + round * kRound + own;
      if (row < p.n && token < p.m) {
        FinishRow(p.epilogue, token, row, v);
      }
      write += to_other;
      read += to_other;
      to_other = -to_other;
    }
  }
}

// A warpgroup's part of a tile on its way to Y, stored as soon as it is multiplied.
template <class T>
class TileStores {
 public:
  __device__ TileStores(const GemmParams& p, StoreConstants<T>& constants, uint32_t staging)
      : p_(p), constants_(constants), staging_(staging) {}

  // Stores rows from row0 on, 64 * kBlocks of them, and a range of the tile's tokens; all threads
  // of a warpgroup, which wait for no other.
  __device__ __forceinline__ void Take(StoreKind kind, const ConsumerOf<T>& consumer, int row0,
                                       int token0, TokenRange range) const {
    WarpgroupSync();  // the previous tile's constants and staging buffers have been read
    if (T::kFp8 || kind == StoreKind::kScaled || kind == StoreKind::kFinished) {
      constants_.Publish(p_.epilogue.alpha);
      WarpgroupSync();
    }
    if (kind == StoreKind::kPlainF16) {
      StoreByThreads<false, T>(p_, consumer, constants_, staging_, row0, token0, range,
                               OutputType::kF16);
    } else if (kind == StoreKind::kPlainBf16) {
      StoreByThreads<false, T>(p_, consumer, constants_, staging_, row0, token0, range,
                               OutputType::kBf16);
    } else if (kind == StoreKind::kScaled) {
      StoreByThreads<true, T>(p_, consumer, constants_, staging_, row0, token0, range,
                              p_.epilogue.y_type);
    } else if constexpr (T::kFinishes) {
      StoreFinished<T>(p_, consumer, constants_, staging_, row0, token0, range);
    }
  }

 private:
  const GemmParams& p_;
  StoreConstants<T>& constants_;
  uint32_t staging_;
};

}  // namespace dualfp::sm90
