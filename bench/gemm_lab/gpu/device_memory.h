// Memory of the current device, freed at the end of its scope.

#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "dualfp/kernels/cuda/common/cuda_check.h"

namespace dualfp::gpu {

class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t bytes) {
    cuda::CheckCuda(cudaMalloc(&data_, std::max<int64_t>(bytes, 16)), "cudaMalloc");
  }
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  uint8_t* bytes() const { return static_cast<uint8_t*>(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

}  // namespace dualfp::gpu
