// What Nested12 planes lack of a tile's weights, summed beside its products: a warp that has
// nothing else to do multiplies it by X, and consumers add the sums to theirs.
//
// These terms are below 2^-21 of the row's largest weight, so that BF16 holds their sums as well as
// FP32 holds the products' (and, of one term alone, exactly).

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "dualfp/kernels/cuda/common/mbarrier.cuh"
#include "dualfp/kernels/cuda/sm90/pipeline/tile.cuh"

namespace dualfp::sm90 {

// By a warp.
template <class T>
class TinySums {
 public:
  __device__ TinySums(const GemmParams& p, const SharedLayout<T>& shared)
      : p_(p), shared_(shared), lane_(threadIdx.x % 32) {}

  // Of stages [begin, end) of K of the tile at weight `row0` and `token0`. Waits for the previous
  // kernel, but not before it asks for the lists.
  __device__ __forceinline__ void Sum(int row0, int token0, int begin, int end) {
    uint2 own[kLists];
#pragma unroll
    for (int i = 0; i < kLists; ++i) {
      const int row = row0 + i * cuda::kTinyRows;
      own[i] = row < p_.n ? LoadBatch(row / cuda::kTinyRows) : make_uint2(cuda::kNoTinyWeight, 0);
    }
    cuda::GridWaitForPrevious();
    cuda::BarrierWait(shared_.SumsEmpty(), phase_ ^ 1);
    phase_ ^= 1;
#pragma unroll
    for (int i = 0; i < kLists; ++i) {
      for (uint32_t at = lane_ * 16; at < T::kBlockSumsBytes; at += 32 * 16) {
        asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(shared_.Sums(i) + at), "r"(0)
                     : "memory");
      }
    }
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < kLists; ++i) {
      SumList(own[0], shared_.Sums(i), token0, static_cast<uint32_t>(begin * T::kK),
              static_cast<uint32_t>(end * T::kK));
#pragma unroll
      for (int next = 1; next < kLists; ++next) {
        own[next - 1] = own[next];
      }
    }
    cuda::BarrierArrive(shared_.SumsFull());
  }

 private:
  static constexpr int kLists = T::kRows / cuda::kTinyRows;
  // A load takes kLoadTokens of kEntries tiny weights, kLaneTokens a lane; kLoads of them are on
  // their way together.
  static constexpr int kLaneTokens = T::kTokens > 32 ? 2 : 1;
  static constexpr int kLoadTokens = T::kTokens <= 8 ? 8 : T::kTokens <= 16 ? 16 : 32 * kLaneTokens;
  static constexpr int kLanes = kLoadTokens / kLaneTokens;
  static constexpr int kEntries = 32 / kLanes;
  static constexpr int kLoads = 8;

  __device__ __forceinline__ uint2 LoadBatch(uint32_t batch) const {
    return __ldg(reinterpret_cast<const uint2*>(p_.tiny) + batch * cuda::kTinyBatch + lane_);
  }

  // `own`: this lane's place of the list's first batch.
  __device__ __forceinline__ void SumList(uint2 own, uint32_t sums, int token0, uint32_t k_begin,
                                          uint32_t k_end) {
    while (true) {
      const bool wanted = lane_ < cuda::kTinyBatch - 1 && own.x >= k_begin && own.x < k_end;
      uint32_t left = __ballot_sync(0xFFFFFFFFu, wanted);
      while (left != 0) {
        uint32_t rest = left;
#pragma unroll 1
        for (int first = 0; first < T::kTokens; first += kLoadTokens) {
          const int token = first + static_cast<int>(lane_ % kLanes) * kLaneTokens;
          const bool in_tile = T::kTokens % kLoadTokens == 0 || token < T::kTokens;
          const auto* x =
              static_cast<const uint16_t*>(p_.outliers.x) + (token0 + token) * p_.outliers.x_stride;
          uint16_t bits[kLoads][kLaneTokens];
          rest = left;
#pragma unroll
          for (int i = 0; i < kLoads; ++i) {
            const uint32_t source = Next(rest);
            const uint32_t k = __shfl_sync(0xFFFFFFFFu, own.x, source % 32);
#pragma unroll
            for (int j = 0; j < kLaneTokens; ++j) {
              const bool exists = in_tile && token0 + token + j < p_.m && source < 32;
              bits[i][j] = exists ? __ldg(x + j * p_.outliers.x_stride + k) : uint16_t{0};
            }
          }
          rest = left;
#pragma unroll
          for (int i = 0; i < kLoads; ++i) {
            const uint32_t source = Next(rest);
            const uint32_t row_lack = __shfl_sync(0xFFFFFFFFu, own.y, source % 32);
            const uint32_t at = sums + (row_lack & 0xFFFF) * SumsStride(T::kTokens) + token * 2;
            const float lack = __uint_as_float(row_lack & 0xFFFF0000u);
            // One after the other, as they may be of one row.
#pragma unroll
            for (int e = 0; e < kEntries; ++e) {
              if (source < 32 && in_tile &&
                  (kEntries == 1 || static_cast<int>(lane_ / kLanes) == e)) {
                Add(at, lack, bits[i]);
              }
              if (kEntries > 1) {
                __syncwarp();
              }
            }
          }
        }
        left = rest;
      }
      const uint32_t batch = __shfl_sync(0xFFFFFFFFu, own.x, cuda::kTinyBatch - 1);
      if (batch == cuda::kNoTinyWeight) {
        return;
      }
      own = LoadBatch(batch);
    }
  }

  // Of the lanes in `left` the one whose tiny weight this one loads next, or 32; takes kEntries.
  __device__ __forceinline__ uint32_t Next(uint32_t& left) const {
    uint32_t source = 32;
#pragma unroll
    for (int e = 0; e < kEntries; ++e) {
      if (left != 0 && (kEntries == 1 || static_cast<int>(lane_ / kLanes) == e)) {
        source = __ffs(left) - 1;
      }
      left &= left - 1;
    }
    return source;
  }

  __device__ __forceinline__ static float ToFloat(uint16_t x) {
    if constexpr (T::kFormat == WeightFormat::kNested12Bf16) {
      return __uint_as_float(uint32_t{x} << 16);
    } else {
      return __half2float(__ushort_as_half(x));
    }
  }

  // To the sums of a lane's tokens.
  __device__ __forceinline__ static void Add(uint32_t at, float lack,
                                             const uint16_t (&x)[kLaneTokens]) {
    if constexpr (kLaneTokens == 1) {
      uint16_t bits;
      asm volatile("ld.shared.u16 %0, [%1];" : "=h"(bits) : "r"(at) : "memory");
      const float sum = __uint_as_float(uint32_t{bits} << 16) + lack * ToFloat(x[0]);
      bits = __bfloat16_as_ushort(__float2bfloat16_rn(sum));
      asm volatile("st.shared.u16 [%0], %1;" ::"r"(at), "h"(bits) : "memory");
    } else {
      uint32_t bits;
      asm volatile("ld.shared.u32 %0, [%1];" : "=r"(bits) : "r"(at) : "memory");
      const float first = __uint_as_float(bits << 16) + lack * ToFloat(x[0]);
      const float second = __uint_as_float(bits & 0xFFFF0000u) + lack * ToFloat(x[1]);
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
      asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(bits) : "memory");
    }
  }

  const GemmParams& p_;
  const SharedLayout<T>& shared_;
  uint32_t lane_;
  uint32_t phase_ = 0;
};

// By the consumers, of a tile whose products they have.
template <class T>
__device__ __forceinline__ void AddTinySums(const SharedLayout<T>& shared, uint32_t phase,
                                            float (&acc)[T::kBlocks][T::kTokens / 2]) {
  cuda::BarrierWait(shared.SumsFull(), phase);
  const int lane = threadIdx.x % 32;
  const int warpgroup = threadIdx.x / 128;
  const int row = threadIdx.x / 32 % 4 * 16 + lane / 4;
  const uint32_t own =
      shared.Sums(warpgroup * T::kBlocks) + row * SumsStride(T::kTokens) + lane % 4 * 4;
#pragma unroll
  for (int b = 0; b < T::kBlocks; ++b) {
#pragma unroll
    for (int i = 0; i < T::kTokens / 8; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint32_t pair;
        asm volatile("ld.shared.u32 %0, [%1];"
                     : "=r"(pair)
                     : "r"(own + (b * 64 + h * 8) * SumsStride(T::kTokens) + i * 16)
                     : "memory");
        acc[b][4 * i + 2 * h] += __uint_as_float(pair << 16);
        acc[b][4 * i + 2 * h + 1] += __uint_as_float(pair & 0xFFFF0000u);
      }
    }
  }
}

// By the consumers, when they have done with the tile's sums and with what lies in the same memory.
template <class T>
__device__ __forceinline__ void ReleaseTinySums(const SharedLayout<T>& shared) {
  cuda::BarrierArrive(shared.SumsEmpty());
}

}  // namespace dualfp::sm90
