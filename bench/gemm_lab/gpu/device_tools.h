// Device helpers of the GPU benchmark: random data, an FP64 reference, errors.

#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

#include <cstdint>

#include "dualfp/kernels/cuda/sm90/gemm_params.h"

namespace dualfp::gpu {

// Normal F16 values of this standard deviation, clamped to +-limit.
void FillNormal(void* f16, int64_t count, float deviation, float limit, uint64_t seed,
                cudaStream_t stream);

// F16 values rounded to BF16.
void ToBf16(const void* f16, void* bf16, int64_t count, cudaStream_t stream);

// BF16 values rounded to F16.
void ToF16(const void* bf16, void* f16, int64_t count, cudaStream_t stream);

void FillByte(void* data, int64_t bytes, int value, cudaStream_t stream);

// A copy by a kernel: the bandwidth that kernels can hope for. `bytes` is a multiple of 16384.
void Copy(const void* from, void* to, int64_t bytes, cudaStream_t stream);

// out[i, n] = sum over k of X[rows[i], k] * W[n, k] in FP64, times what `block` has for them. X and
// W are of one type: CUDA_R_16F, CUDA_R_16BF or CUDA_R_8F_E4M3.
void Reference(cudaDataType_t type, const void* x, const void* w, const sm90::BlockScales& block,
               const int* rows, int row_count, int n, int k, double* out, cudaStream_t stream);

// result[0] += sum (y * scale - ref)^2 over the sampled rows, result[1] += sum ref^2; not a number
// where y is, which is CUDA_R_16F or CUDA_R_16BF. `row_scale` [M] and
// `column_scale` [N] multiply ref, if given.
void Compare(cudaDataType_t type, const void* y, int64_t y_stride, const int* rows, int row_count,
             int n, const double* reference, double scale, const float* row_scale,
             const float* column_scale, double* result, cudaStream_t stream);

}  // namespace dualfp::gpu
