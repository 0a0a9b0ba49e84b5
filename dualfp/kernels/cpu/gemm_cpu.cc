#include "dualfp/kernels/gemm_kernels.h"

namespace dualfp {

std::span<const GemmKernel> CpuGemmKernels() { return {}; }

}  // namespace dualfp
