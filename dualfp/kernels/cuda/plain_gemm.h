// Plain FP16 and BF16 weights on the GPU: cuBLASLt, loaded at run time, so that dualfp builds and
// starts without it.

#pragma once

#include <cstdint>
#include <string>

#include "dualfp/kernels/gemm.h"

namespace dualfp::cuda {

// GemmKernel's functions. X has the weight's dtype; Y is F32, F16 or BF16. Bias, activations and a
// Y of another dtype than X go through FP32 sums in the workspace.
std::string PlainGemmUnsupported(const GemmDesc& desc);
int64_t PlainGemmWorkspaceBytes(const GemmDesc& desc);
void RunPlainGemm(const Context& context, const GemmDesc& desc, const GemmArgs& args);

}  // namespace dualfp::cuda
