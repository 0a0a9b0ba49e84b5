// Device helpers of the GPU benchmark: random data, an FP64 reference, errors.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dualfp::gpu {

// Normal F16 values of this standard deviation, clamped to +-limit.
void FillNormal(void* f16, int64_t count, float deviation, float limit, uint64_t seed,
                cudaStream_t stream);

void FillByte(void* data, int64_t bytes, int value, cudaStream_t stream);

// A copy by a kernel: the bandwidth that kernels can hope for. `bytes` is a multiple of 16384.
void Copy(const void* from, void* to, int64_t bytes, cudaStream_t stream);

// out[i, n] = sum over k of X[rows[i], k] * W[n, k] in FP64. X and W both F16, or (fp8) both E4M3.
void Reference(const void* x, const void* w, bool fp8, const int* rows, int row_count, int n, int k,
               double* out, cudaStream_t stream);

// result[0] += sum (y * scale - ref)^2 over the sampled rows, result[1] += sum ref^2; not a number
// where y is. `row_scale` [M] multiplies ref, if given.
void Compare(const void* y_f16, int64_t y_stride, const int* rows, int row_count, int n,
             const double* reference, double scale, const float* row_scale, double* result,
             cudaStream_t stream);

}  // namespace dualfp::gpu
