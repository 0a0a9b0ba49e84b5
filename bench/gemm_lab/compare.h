// One GEMM problem against cuBLASLt: alternating replays in one process, correctness beside speed.

#pragma once

#include <cuda_runtime_api.h>

#include <span>

#include "bench/gemm_lab/gpu/cublaslt.h"
#include "bench/gemm_lab/gpu/gemm_data.h"
#include "bench/gemm_lab/report/record.h"

namespace dualfp::gpu {

// The product that `data` is prepared for: the fastest of `plans` by a short trial and a race, in
// which the first always takes part (one plan: without either), against the fastest of cuBLASLt's
// algorithms, if it has any; `baseline` may be null. Throws kInternal when a plan's result is
// wrong.
GemmRecord MeasureGemm(const GemmData& data, std::span<const sm90::Plan> plans, CublasLt* baseline,
                       cudaStream_t stream);

}  // namespace dualfp::gpu
