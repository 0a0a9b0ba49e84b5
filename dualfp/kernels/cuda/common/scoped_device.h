// Makes a GPU the current one for a scope.

#pragma once

#include <cuda_runtime_api.h>

#include "dualfp/kernels/cuda/common/cuda_check.h"

namespace dualfp::cuda {

class ScopedDevice {
 public:
  explicit ScopedDevice(int index) {
    CheckCuda(cudaGetDevice(&previous_), "cudaGetDevice");
    changed_ = previous_ != index;
    if (changed_) {
      CheckCuda(cudaSetDevice(index), "cudaSetDevice");
    }
  }
  ~ScopedDevice() {
    if (changed_) {
      cudaSetDevice(previous_);
    }
  }
  ScopedDevice(const ScopedDevice&) = delete;
  ScopedDevice& operator=(const ScopedDevice&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

}  // namespace dualfp::cuda
