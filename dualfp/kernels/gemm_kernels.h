// The kernel lists that table.cc strings together, one per backend, each in order of preference.

#pragma once

#include <span>

#include "dualfp/kernels/gemm.h"

namespace dualfp {

std::span<const GemmKernel> CpuGemmKernels();        // cpu/gemm_list.cc
std::span<const GemmKernel> ReferenceGemmKernels();  // reference/gemm_reference.cc

}  // namespace dualfp
