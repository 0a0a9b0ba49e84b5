// What happens to an accumulator on its way to Y.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/cuda/common/silu.cuh"
#include "dualfp/kernels/cuda/sm90/gemm_params.h"
#include "dualfp/kernels/cuda/sm90/pipeline/tile.cuh"

namespace dualfp::sm90 {

using cuda::Silu;

__device__ __forceinline__ float LoadShared(uint32_t address) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address));
  return v;
}
__device__ __forceinline__ float2 LoadShared2(uint32_t address) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address));
  return v;
}
__device__ __forceinline__ float4 LoadShared4(uint32_t address) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address));
  return v;
}
__device__ __forceinline__ void StoreShared(uint32_t address, float v) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(v) : "memory");
}

__device__ __forceinline__ void StoreGlobalIf(bool condition, void* address, const float4& v) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %0, 0;\n"
      "@p st.global.v4.f32 [%1], {%2, %3, %4, %5};\n"
      "}\n" ::"r"(static_cast<int>(condition)),
      "l"(address), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
      : "memory");
}

// Scales and bias of kTokens tokens and kRows rows, for kThreads threads that finish them. The
// token scale includes alpha and a weight scale that all rows share. Fetched into registers before
// the tile's K loop and published to shared memory after it, so that nothing waits for global
// memory.
template <int kTokens, int kRows, int kThreads>
class TileConstants {
 public:
  static constexpr int kBytes = 4 * (kTokens + 2 * kRows);

  uint32_t token_scale;  // [kTokens]
  uint32_t row_scale;    // [kRows]
  uint32_t row_bias;     // [kRows]

  __device__ explicit TileConstants(uint32_t address)
      : token_scale(address),
        row_scale(address + 4 * kTokens),
        row_bias(address + 4 * (kTokens + kRows)) {}

  __device__ __forceinline__ void Fetch(const GemmParams& p, int row0, int token0) {
    const Epilogue& e = p.epilogue;
    if (e.x_scale != nullptr) {
      cuda::GridWaitForPrevious();  // which may have computed it
    }
    const bool row_scales = e.w_scale != nullptr && e.w_scale_stride != 0;
    shared_scale_ = e.w_scale != nullptr && e.w_scale_stride == 0 ? e.w_scale[0] : 1.0f;
#pragma unroll
    for (int i = 0; i < kTokenLoads; ++i) {
      const int token = token0 + i * kThreads + Thread();
      token_values_[i] = 1.0f;
      if (e.x_scale != nullptr && token < p.m) {
        token_values_[i] = e.x_scale[static_cast<int64_t>(token) * e.x_scale_stride];
      }
    }
#pragma unroll
    for (int i = 0; i < kRowLoads; ++i) {
      const int row = row0 + i * kThreads + Thread();
      row_values_[i] = 1.0f;
      bias_values_[i] = 0.0f;
      if (row_scales && row < p.n) {
        row_values_[i] = e.w_scale[static_cast<int64_t>(row) * e.w_scale_stride];
      }
      if (e.bias != nullptr && row < p.n) {
        bias_values_[i] = e.bias[row];
      }
    }
  }

  // By all kThreads; a barrier among them must follow.
  __device__ __forceinline__ void Publish(float alpha) const {
#pragma unroll
    for (int i = 0; i < kTokenLoads; ++i) {
      const int token = i * kThreads + Thread();
      if (token < kTokens) {
        StoreShared(token_scale + 4 * token, token_values_[i] * (alpha * shared_scale_));
      }
    }
#pragma unroll
    for (int i = 0; i < kRowLoads; ++i) {
      const int row = i * kThreads + Thread();
      if (row < kRows) {
        StoreShared(row_scale + 4 * row, row_values_[i]);
        StoreShared(row_bias + 4 * row, bias_values_[i]);
      }
    }
  }

 private:
  static constexpr int kTokenLoads = CeilDiv(kTokens, kThreads);
  static constexpr int kRowLoads = CeilDiv(kRows, kThreads);

  __device__ static int Thread() { return static_cast<int>(threadIdx.x) % kThreads; }

  float shared_scale_;
  float token_values_[kTokenLoads];
  float row_values_[kRowLoads];
  float bias_values_[kRowLoads];
};

__device__ __forceinline__ uint32_t Pack(float a, float b, OutputType type) {
  if (type == OutputType::kBf16) {
    const __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
    return reinterpret_cast<const uint32_t&>(h);
  }
  const __half2 h = __floats2half2_rn(a, b);
  return reinterpret_cast<const uint32_t&>(h);
}

__device__ __forceinline__ float2 Unpack(uint32_t bits, OutputType type) {
  if (type == OutputType::kBf16) {
    return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(bits));
  }
  return __half22float2(reinterpret_cast<const __half2&>(bits));
}

// kCount (2, 4 or 8) consecutive values of Y or the residual; 16-bit accesses are vectors.
template <int kCount>
__device__ __forceinline__ void StoreRow(const Epilogue& e, int64_t index,
                                         const float (&v)[kCount]) {
  if (e.y_type == OutputType::kF32) {
    float* y = static_cast<float*>(e.y) + index;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      y[i] = v[i];
    }
    return;
  }
  uint32_t packed[kCount / 2];
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    packed[i] = Pack(v[2 * i], v[2 * i + 1], e.y_type);
  }
  uint16_t* y = static_cast<uint16_t*>(e.y) + index;
  if constexpr (kCount == 8) {
    *reinterpret_cast<uint4*>(y) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
  } else if constexpr (kCount == 4) {
    *reinterpret_cast<uint2*>(y) = make_uint2(packed[0], packed[1]);
  } else {
    *reinterpret_cast<uint32_t*>(y) = packed[0];
  }
}

template <int kCount>
__device__ __forceinline__ void AddResidual(const Epilogue& e, int64_t index, float (&v)[kCount]) {
  if (e.y_type == OutputType::kF32) {
    const float* r = static_cast<const float*>(e.residual) + index;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      v[i] += r[i];
    }
    return;
  }
  const uint16_t* r = static_cast<const uint16_t*>(e.residual) + index;
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    const float2 f = Unpack(reinterpret_cast<const uint32_t*>(r)[i], e.y_type);
    v[2 * i] += f.x;
    v[2 * i + 1] += f.y;
  }
}

// Activation and residual of scaled and biased values of rows row .. row + kCount - 1, then the
// store. kCount is 4 or 8; row is a multiple of it.
template <int kCount>
__device__ __forceinline__ void FinishRow(const Epilogue& e, int64_t token, int row,
                                          float (&v)[kCount]) {
  if (e.silu_mul) {
    float half[kCount / 2];
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      half[i] = Silu(v[2 * i]) * v[2 * i + 1];
    }
    if (e.residual != nullptr) {
      AddResidual(e, token * e.residual_stride + row / 2, half);
    }
    StoreRow(e, token * e.y_stride + row / 2, half);
    return;
  }
  if (e.residual != nullptr) {
    AddResidual(e, token * e.residual_stride + row, v);
  }
  StoreRow(e, token * e.y_stride + row, v);
}

}  // namespace dualfp::sm90
