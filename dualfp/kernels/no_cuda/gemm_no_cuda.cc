// Stands in for cuda/ in builds without nvcc.

#include "dualfp/kernels/gemm_kernels.h"

namespace dualfp {

std::span<const GemmKernel> CudaGemmKernels() { return {}; }

}  // namespace dualfp
