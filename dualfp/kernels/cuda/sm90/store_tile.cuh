// Accumulators of a warpgroup on their way to Y in the persistent kernels.

#pragma once

#include "dualfp/kernels/cuda/common/matrix.cuh"
#include "dualfp/kernels/cuda/sm90/epilogue.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop.cuh"
#include "dualfp/kernels/cuda/sm90/partial_sums.cuh"

namespace dualfp::sm90 {

template <class T>
using StoreConstants = TileConstants<T::kTokens, 64 * T::kBlocks, 128>;

// Plain tiles want token scales (FP8) or nothing (nested) and are what most tiles are; the rest is
// general. The output type is known at compile time: while they store, warps have little to hide
// instructions behind.
enum class StoreKind { kPlainF16, kPlainBf16, kGeneral };

template <class T>
__device__ __forceinline__ StoreKind StoreKindOf(const Epilogue& e) {
  const bool row_scales = e.w_scale != nullptr && e.w_scale_stride != 0;
  const bool scaled = e.x_scale != nullptr || e.w_scale != nullptr || e.alpha != 1.0f;
  if (row_scales || (T::kNested && scaled) || e.bias != nullptr || e.silu || e.silu_mul ||
      e.residual != nullptr) {
    return StoreKind::kGeneral;
  }
  return e.y_type == OutputType::kBf16 ? StoreKind::kPlainBf16 : StoreKind::kPlainF16;
}

// Chunks of tokens are turned around in two staging buffers in turn, [token][64 rows], so that the
// threads store whole 128-byte lines of Y. The eight 16-byte parts of a token change places by
// token, which keeps stmatrix and the loads free of bank conflicts. (The copy engine would need a
// proxy fence a chunk, which costs more than storing.)
template <bool kGeneral, class T>
__device__ __forceinline__ void StoreChunks(const GemmParams& p, const ConsumerOf<T>& consumer,
                                            const StoreConstants<T>& constants, uint32_t staging,
                                            int row0, int token0, TokenRange range,
                                            OutputType type) {
  constexpr int kChunk = StoreChunkTokens(T::kTokens);
  constexpr int kChunks = CeilDiv(T::kTokens, kChunk);  // the last may be smaller
  constexpr int kColumns = T::kTokens / 8;              // of 8 tokens
  const Epilogue& e = p.epilogue;
  const int thread = threadIdx.x % 128;
  const int warp = thread / 32;
  const int lane = thread % 32;
  // stmatrix: this lane addresses 16 bytes (8 of the warp's 16 rows) of one of 16 tokens.
  uint32_t turned =
      staging + (lane / 16 * 8 + lane % 8) * 128 + (((warp * 2 + lane / 8 % 2) ^ (lane % 8)) << 4);
  // Then each thread stores 16 bytes of every 16th token.
  const int own = thread / 8;
  uint32_t read = staging + own * 128 + ((thread % 8 ^ own % 8) << 4);
  uint32_t scales = constants.token_scale + lane % 4 * 8;
  int to_other = kChunk * 128;    // buffer
  int left = p.m - token0 - own;  // tokens from this thread's first on
  const int64_t step = 16 * e.y_stride * 2;
  // The compiler would compute these again for every chunk.
  asm("" : "+r"(turned), "+r"(read), "+r"(scales), "+r"(left));
#pragma unroll
  for (int block = 0; block < T::kBlocks; ++block) {
    const int row = row0 + block * 64 + thread % 8 * 8;
    uint8_t* y = static_cast<uint8_t*>(e.y) + ((token0 + own) * e.y_stride + row) * 2;
    const int tokens = row < p.n ? left : 0;
    float row_scale[2];
    float bias[2];
    if constexpr (kGeneral) {
      const uint32_t lane_row = 4 * (block * 64 + warp * 16 + lane / 4);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        row_scale[h] = LoadShared(constants.row_scale + lane_row + 32 * h);
        bias[h] = LoadShared(constants.row_bias + lane_row + 32 * h);
      }
    }
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const int first = chunk * kChunk / 8;
      const int columns = min(kChunk / 8, kColumns - first);
      if (!range.Holds(chunk * kChunk)) {
        y += CeilDiv(columns, 2) * step;
        continue;
      }
      float2 scale[kChunk / 8];
      if constexpr (kGeneral || !T::kNested) {
#pragma unroll
        for (int i = 0; i < columns; ++i) {
          scale[i] = LoadShared2(scales + (first + i) * 32);
        }
      }
      uint32_t packed[kChunk / 8][2];
#pragma unroll
      for (int i = 0; i < columns; ++i) {
        const float* d = &consumer.acc[block][(first + i) * 4];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if constexpr (kGeneral) {
            packed[i][h] = Pack(d[2 * h] * (scale[i].x * row_scale[h]) + bias[h],
                                d[2 * h + 1] * (scale[i].y * row_scale[h]) + bias[h], type);
          } else if constexpr (T::kNested) {
            packed[i][h] = Pack(d[2 * h], d[2 * h + 1], type);
          } else {
            packed[i][h] = Pack(d[2 * h] * scale[i].x, d[2 * h + 1] * scale[i].y, type);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < columns; i += 2) {
        if (i + 1 < columns) {
          cuda::StoreMatrix4Transposed(turned + i * 8 * 128, packed[i][0], packed[i][1],
                                       packed[i + 1][0], packed[i + 1][1]);
        } else {
          cuda::StoreMatrix2Transposed(turned + i * 8 * 128 - lane / 16 * 8 * 128, packed[i][0],
                                       packed[i][1]);
        }
      }
      WarpgroupSync();
      float4 bits[(kChunk + 15) / 16];
#pragma unroll
      for (int i = 0; i < columns; i += 2) {
        bits[i / 2] = LoadShared4(read + i * 8 * 128);
      }
#pragma unroll
      for (int i = 0; i < columns; i += 2) {
        const bool exists = (first + i) * 8 < tokens &&
                            (i + 1 < columns || own < 8);  // of 16 tokens, or the last 8
        const float4& b = bits[i / 2];
        if (!kGeneral || (!e.silu && !e.silu_mul && e.residual == nullptr)) {
          StoreGlobalIf(exists, y, b);
        } else if (exists) {
          const float2 f[4] = {
              Unpack(__float_as_uint(b.x), e.y_type), Unpack(__float_as_uint(b.y), e.y_type),
              Unpack(__float_as_uint(b.z), e.y_type), Unpack(__float_as_uint(b.w), e.y_type)};
          float v[8] = {f[0].x, f[0].y, f[1].x, f[1].y, f[2].x, f[2].y, f[3].x, f[3].y};
          FinishRow(e, token0 + (first + i) * 8 + own, row, v);
        }
        y += step;
      }
      turned += to_other;
      read += to_other;
      to_other = -to_other;
    }
  }
}

// Rows from row0 on, 64 * kBlocks of them, and a range of the tile's tokens; all threads of a
// warpgroup, which wait for no other.
template <class T>
__device__ __forceinline__ void StoreTile(const GemmParams& p, StoreKind kind,
                                          const ConsumerOf<T>& consumer,
                                          const StoreConstants<T>& constants, uint32_t staging,
                                          int row0, int token0, TokenRange range) {
  WarpgroupSync();  // the previous tile's constants and staging buffers have been read
  if (kind == StoreKind::kGeneral || !T::kNested) {
    constants.Publish(p.epilogue.alpha);
    WarpgroupSync();
  }
  if (kind == StoreKind::kPlainF16) {
    StoreChunks<false, T>(p, consumer, constants, staging, row0, token0, range, OutputType::kF16);
  } else if (kind == StoreKind::kPlainBf16) {
    StoreChunks<false, T>(p, consumer, constants, staging, row0, token0, range, OutputType::kBf16);
  } else {
    StoreChunks<true, T>(p, consumer, constants, staging, row0, token0, range, p.epilogue.y_type);
  }
}

}  // namespace dualfp::sm90
