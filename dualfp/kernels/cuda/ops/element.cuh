// Elements of hidden states and caches as floats, one at a time or as wide as memory allows.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "dualfp/base/check.h"
#include "dualfp/tensor/tensor_view.h"

namespace dualfp::cuda {

__device__ __forceinline__ float ToFloat(float v) { return v; }
__device__ __forceinline__ float ToFloat(__half v) { return __half2float(v); }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float ToFloat(__nv_fp8_e4m3 v) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(v.__x, __NV_E4M3)));
}

// To the nearest, ties to even; E4M3 saturates.
template <typename T>
__device__ __forceinline__ T FromFloat(float v);
template <>
__device__ __forceinline__ float FromFloat(float v) {
  return v;
}
template <>
__device__ __forceinline__ __half FromFloat(float v) {
  return __float2half_rn(v);
}
template <>
__device__ __forceinline__ __nv_bfloat16 FromFloat(float v) {
  return __float2bfloat16_rn(v);
}
template <>
__device__ __forceinline__ __nv_fp8_e4m3 FromFloat(float v) {
  __nv_fp8_e4m3 code;
  code.__x = __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
  return code;
}

// kCount elements in as few accesses of at most 16 bytes as they take.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Elements {
  T v[kCount];
};

// `p` is aligned to the elements' size, to 16 at most.
template <int kCount, typename T>
__device__ __forceinline__ void LoadFloats(const T* p, float (&out)[kCount]) {
  const auto elements = *reinterpret_cast<const Elements<T, kCount>*>(p);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    out[i] = ToFloat(elements.v[i]);
  }
}

template <int kCount, typename T>
__device__ __forceinline__ void StoreFloats(const float (&in)[kCount], T* p) {
  Elements<T, kCount> elements;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    elements.v[i] = FromFloat<T>(in[i]);
  }
  *reinterpret_cast<Elements<T, kCount>*>(p) = elements;
}

// Calls f.operator()<T>() with the type of an activation dtype.
template <typename F>
void WithActivation(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kF16:
      return f.template operator()<__half>();
    case DType::kBF16:
      return f.template operator()<__nv_bfloat16>();
    case DType::kF32:
      return f.template operator()<float>();
    default:
      Fail(ErrorCode::kUnsupported, "hidden states of ", DTypeName(dtype), " on a GPU");
  }
}

// Whether rows begin, and heads within them where there are, at multiples of `bytes`.
inline bool RowsAligned(const ConstTensorView& view, int64_t bytes) {
  bool aligned = reinterpret_cast<uintptr_t>(view.data) % bytes == 0;
  for (int axis = 0; axis + 1 < view.rank; ++axis) {
    aligned = aligned &&
              (view.shape[axis] <= 1 || view.strides[axis] * DTypeSize(view.dtype) % bytes == 0);
  }
  return aligned;
}

}  // namespace dualfp::cuda
