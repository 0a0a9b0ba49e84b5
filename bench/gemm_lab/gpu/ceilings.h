// What the GPU reaches at most, measured: a roofline's two parts.

#pragma once

#include <cuda_runtime_api.h>

#include "bench/gemm_lab/gpu/cublaslt.h"
#include "bench/gemm_lab/report/plots.h"

namespace dualfp::gpu {

// Bytes read and written by a copy kernel over 1 GiB.
double CopyBytesPerMicrosecond(cudaStream_t stream);

// That, and the rates of 8192 x 8192 x 8192 products by cuBLASLt (0 where `baseline` is null).
Ceilings MeasureCeilings(CublasLt* baseline, cudaStream_t stream);

}  // namespace dualfp::gpu
