// One GEMM problem against cuBLASLt: alternating replays in one process, correctness beside speed.

#pragma once

#include <cuda_runtime_api.h>

#include <span>

#include "apps/gemm/record.h"
#include "apps/gpu/cublaslt.h"
#include "apps/gpu/gemm_data.h"

namespace dualfp::gpu {

// The product that `data` is prepared for: the fastest of `plans` by a short trial and a race, in
// which the first always takes part (one plan: without either), against the fastest of cuBLASLt's
// algorithms, if it has any; `baseline` may be null. Throws kInternal when a plan's result is
// wrong.
GemmRecord MeasureGemm(const GemmData& data, std::span<const sm90::Plan> plans, CublasLt* baseline,
                       cudaStream_t stream);

}  // namespace dualfp::gpu
