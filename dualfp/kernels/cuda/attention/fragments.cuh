// What decodes and prefills share: the cache's and the queries' elements as tensor cores take them.

#pragma once

#include "dualfp/kernels/cuda/attention/attention.h"
#include "dualfp/kernels/cuda/attention/mma.cuh"
#include "dualfp/kernels/cuda/ops/element.cuh"

namespace dualfp::cuda {

constexpr float kLeastMaximum = -1e30f;  // below any score, and finite

// What tensor cores multiply: E4M3 as F16.
template <typename Cache>
struct MatrixType {
  using Type = Cache;
};
template <>
struct MatrixType<__nv_fp8_e4m3> {
  using Type = __half;
};

// Sixteen bytes of cache as pairs for tensor cores.
template <typename Cache>
struct Widened {
  static constexpr int kPairs = 8 / sizeof(Cache);
  uint32_t pair[kPairs];

  __device__ __forceinline__ explicit Widened(const uint4& bytes) {
    const uint32_t word[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(Cache) == 2) {
        pair[i] = word[i];
      } else {
        asm("{ .reg .b16 low, high; mov.b32 {low, high}, %2; cvt.rn.f16x2.e4m3x2 %0, low; "
            "cvt.rn.f16x2.e4m3x2 %1, high; }"
            : "=r"(pair[2 * i]), "=r"(pair[2 * i + 1])
            : "r"(word[i]));
      }
    }
  }
};

// 2 * kPairs elements of a query as pairs for tensor cores.
template <typename E, int kPairs>
__device__ __forceinline__ void LoadQuery(const AttentionParams& p, int64_t offset,
                                          uint32_t (&pair)[kPairs]) {
  float v[2 * kPairs];
  if (p.dtype == DType::kF16) {
    LoadFloats(static_cast<const __half*>(p.query) + offset, v);
  } else {
    LoadFloats(static_cast<const __nv_bfloat16*>(p.query) + offset, v);
  }
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    pair[i] = PackPair<E>(v[2 * i], v[2 * i + 1]);
  }
}

}  // namespace dualfp::cuda
