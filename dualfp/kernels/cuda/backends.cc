// The GPU's backends: our kernels for Hopper, then what a library multiplies on any GPU.

#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/cuda/gemm_choice.h"
#include "dualfp/kernels/cuda/ops/ops.h"

namespace dualfp {

std::vector<Backend> CudaBackends() {
  static constexpr auto kKernels = cuda::MakeGemmKernels<cuda::HardwareOf>();
  constexpr size_t kOfLibrary = 1;  // the last
  const std::span<const GemmKernel> kernels(kKernels);
  return {{.name = "sm90",
           .device = DeviceType::kCuda,
           .compute_capability = 9,
           .ops = &cuda::kOps,
           .gemms = kernels.first(kernels.size() - kOfLibrary),
           .kv_dtypes = cuda::kKvDTypes,
           .activations = cuda::kActivations},
          {.name = "cublaslt",
           .device = DeviceType::kCuda,
           .ops = &cuda::kOps,
           .gemms = kernels.last(kOfLibrary),
           .kv_dtypes = cuda::kKvDTypes,
           .activations = cuda::kActivations}};
}

}  // namespace dualfp
