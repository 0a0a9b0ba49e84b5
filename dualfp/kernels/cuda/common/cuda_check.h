// Every CUDA runtime call goes through CheckCuda.

#pragma once

#include <cuda_runtime_api.h>

#include "dualfp/base/check.h"

namespace dualfp::cuda {

inline void CheckCuda(cudaError_t status, const char* what) {
  Check(status == cudaSuccess,
        status == cudaErrorMemoryAllocation ? ErrorCode::kResourceExhausted : ErrorCode::kInternal,
        what, ": ", cudaGetErrorName(status), ": ", cudaGetErrorString(status));
}

}  // namespace dualfp::cuda
