// The GEMM of every format, as its definition says.

#pragma once

#include <span>

#include "dualfp/kernels/gemm.h"

namespace dualfp::reference {

std::span<const GemmKernel> GemmKernels();

}  // namespace dualfp::reference
