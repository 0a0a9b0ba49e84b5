// Copies of one weight as Nested12 planes on the current device.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "bench/gemm_lab/gpu/device_memory.h"
#include "dualfp/kernels/cuda/nested12_planes.h"

namespace dualfp::gpu {

class Nested12Data {
 public:
  // w: BF16 [copies, n, k]. Waits.
  Nested12Data(const void* w, int copies, int n, int k, cudaStream_t stream);

  const uint8_t* upper(int copy) const { return upper_.bytes() + copy * n_ * k_; }
  const uint8_t* nibbles(int copy) const {
    return nibbles_.bytes() + copy * cuda::NibblePlaneBytes(n_, k_);
  }
  const float* row_scale(int copy) const { return row_scale_.as<float>() + copy * n_; }
  const cuda::TinyWeight* tiny(int copy) const {
    return tiny_->as<cuda::TinyWeight>() + tiny_begin_[copy];
  }

 private:
  int64_t n_;
  int64_t k_;
  DeviceMemory upper_;
  DeviceMemory nibbles_;
  DeviceMemory row_scale_;
  std::vector<int64_t> tiny_begin_;  // of each copy
  std::optional<DeviceMemory> tiny_;
};

}  // namespace dualfp::gpu
