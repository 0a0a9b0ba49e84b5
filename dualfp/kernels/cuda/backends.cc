// The GPU's backends: our kernels for Hopper, then what a library multiplies on any GPU.

#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/cuda/gemm_choice.h"

namespace dualfp {

std::vector<Backend> CudaBackends() {
  static constexpr auto kKernels = cuda::MakeGemmKernels<cuda::HardwareOf>();
  static constexpr DType kActivations[] = {DType::kF16, DType::kBF16};
  constexpr size_t kOfLibrary = 1;  // the last
  const std::span<const GemmKernel> kernels(kKernels);
  return {{.name = "sm90",
           .device = DeviceType::kCuda,
           .compute_capability = 9,
           .gemms = kernels.first(kernels.size() - kOfLibrary),
           .activations = kActivations},
          {.name = "cublaslt",
           .device = DeviceType::kCuda,
           .gemms = kernels.last(kOfLibrary),
           .activations = kActivations}};
}

}  // namespace dualfp
