// The CPU's GEMM kernels.

#pragma once

#include <span>

#include "dualfp/base/cpu_features.h"
#include "dualfp/kernels/gemm.h"

namespace dualfp::cpu {

// Those that need `isa` and nothing above, in order of preference.
std::span<const GemmKernel> GemmKernelsFor(CpuIsa isa);

}  // namespace dualfp::cpu
