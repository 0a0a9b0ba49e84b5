#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/common/silu.cuh"
#include "dualfp/kernels/cuda/finish_sums.h"

namespace dualfp::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float ToFloat(float v) { return v; }
__device__ __forceinline__ float ToFloat(__half v) { return __half2float(v); }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ __forceinline__ void Store(float* p, float v) { *p = v; }
__device__ __forceinline__ void Store(__half* p, float v) { *p = __float2half_rn(v); }
__device__ __forceinline__ void Store(__nv_bfloat16* p, float v) { *p = __float2bfloat16_rn(v); }

template <class Y>
__global__ void __launch_bounds__(kThreads) Finish(const __grid_constant__ FinishArgs a) {
  const int64_t columns = a.silu_mul ? a.n / 2 : a.n;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < a.m * columns;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = i / columns;
    const int64_t column = i - row * columns;
    const auto sum = [&](int64_t n) {
      const float v = a.sums[row * a.n + n];
      return a.bias != nullptr ? v + a.bias[n] : v;
    };
    float v;
    if (a.silu_mul) {
      v = Silu(sum(2 * column)) * sum(2 * column + 1);
    } else {
      v = sum(column);
    }
    if (a.residual != nullptr) {
      v += ToFloat(static_cast<const Y*>(a.residual)[row * a.residual_stride + column]);
    }
    Store(static_cast<Y*>(a.y) + row * a.y_stride + column, v);
  }
}

}  // namespace

void FinishSums(const FinishArgs& args, cudaStream_t stream) {
  const int64_t blocks = (args.m * args.n + kThreads - 1) / kThreads;
  const auto grid = static_cast<unsigned>(blocks < (1 << 16) ? blocks : 1 << 16);
  const auto kernel = args.type == FinishType::kF16    ? Finish<__half>
                      : args.type == FinishType::kBf16 ? Finish<__nv_bfloat16>
                                                       : Finish<float>;
  kernel<<<grid, kThreads, 0, stream>>>(args);
  CheckCuda(cudaGetLastError(), "FinishSums");
}

}  // namespace dualfp::cuda
