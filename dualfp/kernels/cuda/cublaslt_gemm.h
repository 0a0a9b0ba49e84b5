// Plain FP16 and BF16 weights on the GPU by cuBLASLt, loaded at run time, so that dualfp builds and
// starts without it: where our own kernels (sm90/) do not run or are slower.

#pragma once

#include <cstdint>
#include <string>

#include "dualfp/kernels/gemm.h"

namespace dualfp::cuda {

// Why the library cannot be used, and the remedy; empty where it can.
std::string CublasLtMissing();

// Makes the library's handle of a GPU, the current one, so that no product has to.
void PrepareCublasLt(int device);

// GemmKernel's functions. X has the weight's dtype; Y is F32, F16 or BF16. Bias, activations and a
// Y of another dtype than X go through FP32 sums in the workspace.
int64_t CublasLtWorkspaceBytes(const GemmDesc& desc);
void RunCublasLt(const Context& context, const GemmDesc& desc, const GemmArgs& args);

}  // namespace dualfp::cuda
