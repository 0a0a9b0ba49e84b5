// How ops launch: each kernel may begin while the stream's previous one runs, and waits for it
// (GridWaitForPrevious) before it touches anything that an op has written.

#pragma once

#include <cuda_runtime.h>

#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/common/scoped_device.h"
#include "dualfp/kernels/cuda/stream.h"

namespace dualfp::cuda {

struct LaunchShape {
  dim3 grid;
  int threads = 0;
  size_t shared_bytes = 0;  // beyond 48 KB the kernel's limit is raised
  int cluster = 1;          // blocks along x
};

template <typename... Params, typename... Args>
void LaunchOp(const char* op, const Context& context, const LaunchShape& shape,
              void (*kernel)(Params...), const Args&... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) {
    return;
  }
  const ScopedDevice scope(context.device.index);
  constexpr size_t kAlwaysAllowed = 48 << 10;
  if (shape.shared_bytes > kAlwaysAllowed) {
    CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shape.shared_bytes)),
              op);
  }
  cudaLaunchConfig_t launch{};
  launch.gridDim = shape.grid;
  launch.blockDim = dim3(shape.threads);
  launch.dynamicSmemBytes = shape.shared_bytes;
  launch.stream = StreamOf(context).get();
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  launch.attrs = attributes;
  launch.numAttrs = shape.cluster > 1 ? 2 : 1;
  CheckCuda(cudaLaunchKernelEx(&launch, kernel, Params(args)...), op);
}

}  // namespace dualfp::cuda
