#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "bench/gemm_lab/gpu/device_tools.h"
#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"

namespace dualfp::gpu {
namespace {

__device__ uint64_t Mix(uint64_t z) {
  z += 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

__global__ void NormalKernel(__half2* out, int64_t pairs, float deviation, float limit,
                             uint64_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < pairs;
       i += int64_t{gridDim.x} * blockDim.x) {
    const uint64_t bits = Mix(seed * 0x100000001B3ull + i);
    const float u = (static_cast<uint32_t>(bits) + 1.0f) * 0x1p-32f;
    const float v = static_cast<uint32_t>(bits >> 32) * 0x1p-32f;
    const float radius = deviation * sqrtf(-2.0f * __logf(u));
    float s;
    float c;
    __sincosf(6.2831853f * v, &s, &c);
    out[i] = __floats2half2_rn(fminf(fmaxf(radius * c, -limit), limit),
                               fminf(fmaxf(radius * s, -limit), limit));
  }
}

__global__ void __launch_bounds__(256) CopyKernel(const uint4* from, uint4* to) {
  const int64_t first = blockIdx.x * int64_t{1024} + threadIdx.x;
  uint4 v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[i] = from[first + 256 * i];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[first + 256 * i] = v[i];
  }
}

template <class T>
__device__ double Element(const void* p, int64_t i) {
  return static_cast<float>(static_cast<const T*>(p)[i]);
}

__global__ void ToBf16Kernel(const __half* from, __nv_bfloat16* to, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    to[i] = __float2bfloat16_rn(__half2float(from[i]));
  }
}

__global__ void ToF16Kernel(const __nv_bfloat16* from, __half* to, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    to[i] = __float2half_rn(__bfloat162float(from[i]));
  }
}

// A warp per output column, up to 8 rows at a time.
template <class T>
__global__ void ReferenceKernel(const void* x, const void* w, sm90::BlockScales block,
                                const int* rows, int row_count, int n, int k, double* out) {
  const int column = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (column >= n) {
    return;
  }
  for (int first = 0; first < row_count; first += 8) {
    double sum[8] = {};
    for (int i = lane; i < k; i += 32) {
      double weight = Element<T>(w, int64_t{column} * k + i);
      if (block.w != nullptr) {
        weight *= block.w[column / 128 * block.w_stride + i / 128];
      }
#pragma unroll
      for (int r = 0; r < 8; ++r) {
        if (first + r < row_count) {
          const int row = rows[first + r];
          const double scale =
              block.x == nullptr ? 1.0 : block.x[int64_t{i / 128} * block.x_stride + row];
          sum[r] += weight * scale * Element<T>(x, int64_t{row} * k + i);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 8; ++r) {
      for (int d = 16; d > 0; d /= 2) {
        sum[r] += __shfl_xor_sync(0xFFFFFFFFu, sum[r], d);
      }
      if (lane == 0 && first + r < row_count) {
        out[int64_t{first + r} * n + column] = sum[r];
      }
    }
  }
}

template <class T>
__global__ void CompareKernel(const void* y, int64_t stride, const int* rows, int row_count, int n,
                              const double* reference, double scale, const float* row_scale,
                              const float* column_scale, double* result) {
  double difference = 0.0;
  double norm = 0.0;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < int64_t{row_count} * n;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int row = rows[i / n];
    double expected = reference[i];
    if (row_scale != nullptr) {
      expected *= row_scale[row];
    }
    if (column_scale != nullptr) {
      expected *= column_scale[i % n];
    }
    const double got = scale * Element<T>(y, row * stride + i % n);
    difference += (got - expected) * (got - expected);
    norm += expected * expected;
  }
  for (int d = 16; d > 0; d /= 2) {
    difference += __shfl_xor_sync(0xFFFFFFFFu, difference, d);
    norm += __shfl_xor_sync(0xFFFFFFFFu, norm, d);
  }
  if (threadIdx.x % 32 == 0) {
    atomicAdd(&result[0], difference);
    atomicAdd(&result[1], norm);
  }
}

}  // namespace

void FillNormal(void* f16, int64_t count, float deviation, float limit, uint64_t seed,
                cudaStream_t stream) {
  NormalKernel<<<2048, 256, 0, stream>>>(static_cast<__half2*>(f16), count / 2, deviation, limit,
                                         seed);
  cuda::CheckCuda(cudaGetLastError(), "FillNormal");
}

void Copy(const void* from, void* to, int64_t bytes, cudaStream_t stream) {
  Check(bytes % (1024 * sizeof(uint4)) == 0, ErrorCode::kInvalidArgument, "Copy: ", bytes,
        " bytes, expected a multiple of 16384");
  CopyKernel<<<static_cast<unsigned>(bytes / (1024 * sizeof(uint4))), 256, 0, stream>>>(
      static_cast<const uint4*>(from), static_cast<uint4*>(to));
  cuda::CheckCuda(cudaGetLastError(), "Copy");
}

void ToBf16(const void* f16, void* bf16, int64_t count, cudaStream_t stream) {
  ToBf16Kernel<<<2048, 256, 0, stream>>>(static_cast<const __half*>(f16),
                                         static_cast<__nv_bfloat16*>(bf16), count);
  cuda::CheckCuda(cudaGetLastError(), "ToBf16");
}

void ToF16(const void* bf16, void* f16, int64_t count, cudaStream_t stream) {
  ToF16Kernel<<<2048, 256, 0, stream>>>(static_cast<const __nv_bfloat16*>(bf16),
                                        static_cast<__half*>(f16), count);
  cuda::CheckCuda(cudaGetLastError(), "ToF16");
}

void FillByte(void* data, int64_t bytes, int value, cudaStream_t stream) {
  cuda::CheckCuda(cudaMemsetAsync(data, value, bytes, stream), "cudaMemsetAsync");
}

void Reference(cudaDataType_t type, const void* x, const void* w, const sm90::BlockScales& block,
               const int* rows, int row_count, int n, int k, double* out, cudaStream_t stream) {
  auto* const kernel = type == CUDA_R_8F_E4M3 ? ReferenceKernel<__nv_fp8_e4m3>
                       : type == CUDA_R_16BF  ? ReferenceKernel<__nv_bfloat16>
                                              : ReferenceKernel<__half>;
  kernel<<<(n + 7) / 8, 256, 0, stream>>>(x, w, block, rows, row_count, n, k, out);
  cuda::CheckCuda(cudaGetLastError(), "Reference");
}

void Compare(cudaDataType_t type, const void* y, int64_t y_stride, const int* rows, int row_count,
             int n, const double* reference, double scale, const float* row_scale,
             const float* column_scale, double* result, cudaStream_t stream) {
  auto* const kernel = type == CUDA_R_16BF ? CompareKernel<__nv_bfloat16> : CompareKernel<__half>;
  kernel<<<264, 256, 0, stream>>>(y, y_stride, rows, row_count, n, reference, scale, row_scale,
                                  column_scale, result);
  cuda::CheckCuda(cudaGetLastError(), "Compare");
}

}  // namespace dualfp::gpu
