// What a nested weight's outliers add to a tile's sums, before scales and epilogue.

#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "dualfp/kernels/cuda/sm90/epilogue/epilogue.cuh"

namespace dualfp::sm90 {

// The first outlier whose index is not below `key`, by a whole warp: 32 probes a step.
__device__ __forceinline__ int FirstOutlier(const Outliers& o, int64_t key) {
  int low = 0;  // everything before is below key
  int high = o.count;
  while (low < high) {
    const int stride = (high - low + 31) / 32;
    const int probe = low + static_cast<int>(threadIdx.x % 32) * stride;
    const bool below = probe < high && __ldg(o.index + probe) < key;
    const int steps = __popc(__ballot_sync(0xFFFFFFFFu, below));  // probes ascend
    if (steps == 0) {
      break;
    }
    high = min(high, low + steps * stride);
    low += (steps - 1) * stride + 1;
  }
  return low;
}

template <bool kDecoded>
__device__ __forceinline__ float LoadOperand(const Outliers& o, int token, int column) {
  if constexpr (kDecoded) {
    return __half2float(static_cast<const __half*>(o.x)[token * o.x_stride + column]);
  } else {
    // Codes are permuted inside their sixteen: byte 4t + j holds k = {2t, 2t+1, 2t+8, 2t+9}[j].
    const int k = column % 16;
    const int at = column - k + k % 8 / 2 * 4 + k / 8 * 2 + k % 2;
    const auto code = static_cast<const __nv_fp8_storage_t*>(o.x)[token * o.x_stride + at];
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3)));
  }
}

// Whether weights of this format have outliers.
template <class T>
constexpr bool kHasOutliers = T::kFormat == WeightFormat::kNested || T::kFp8;

// The rows of the tile that a consumer warp holds in block `block` (wgmma.cuh).
template <class T>
__device__ __forceinline__ int WarpRow(int block) {
  const int warp = threadIdx.x / 32;
  return (warp / 4 * T::kBlocks + block) * 64 + warp % 4 * 16;
}

// Where each block of a warp's outliers begins. Found before the K loop, which has not begun to
// multiply by then: a search takes a few dependent accesses to L2.
template <class T>
struct OutlierPlace {
  int first[T::kBlocks];

  __device__ __forceinline__ void Find(const GemmParams& p, int row0) {
#pragma unroll
    for (int block = 0; block < T::kBlocks; ++block) {
      first[block] = 0;
      if (kHasOutliers<T> && p.outliers.count > 0) {
        first[block] =
            FirstOutlier(p.outliers, static_cast<int64_t>(row0 + WarpRow<T>(block)) * p.k);
      }
    }
  }
};

// Adds to the partial sums that this warp has stored, rows of 4 kStride bytes for each token, in
// ascending order, so that a result never depends on timing. In shared memory, because the
// accumulators leave no registers for it. Nothing where there are none.
template <class T, int kStride>
__device__ __forceinline__ void AddOutliers(const GemmParams& p, const OutlierPlace<T>& place,
                                            uint32_t partials, int row0, int token0) {
  const Outliers& o = p.outliers;
  if (!kHasOutliers<T> || o.count == 0) {
    return;
  }
  __syncwarp();
  const int tokens = min(T::kTokens, p.m - token0);
#pragma unroll
  for (int block = 0; block < T::kBlocks; ++block) {
    const int warp_row = WarpRow<T>(block);
    const int64_t begin = static_cast<int64_t>(row0 + warp_row) * p.k;
    for (int i = place.first[block]; i < o.count; ++i) {
      const int64_t offset = __ldg(o.index + i) - begin;
      if (offset >= int64_t{16} * p.k) {
        break;
      }
      const int row = static_cast<int>(static_cast<uint32_t>(offset) / p.k);
      const int column = static_cast<int>(offset) - row * p.k;
      const float value = __ldg(o.value + i) * o.factor;
      for (int token = threadIdx.x % 32; token < tokens; token += 32) {
        const uint32_t address = partials + (token * kStride + warp_row + row) * 4;
        const float x = LoadOperand<T::kDecoded>(o, token0 + token, column);
        StoreShared(address, fmaf(value, x, LoadShared(address)));
      }
    }
  }
}

}  // namespace dualfp::sm90
