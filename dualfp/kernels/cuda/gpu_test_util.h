// For tests that run on a GPU where there is one and are skipped elsewhere.

#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "dualfp/kernels/cuda/common/cuda_check.h"

namespace dualfp::cuda {

inline bool HasGpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasGpu()) {
      GTEST_SKIP() << "no GPU";
    }
    CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  void TearDown() override {
    if (stream_ != nullptr) {
      cudaStreamDestroy(stream_);
    }
  }

  cudaStream_t stream_ = nullptr;
};

// Device memory between two guards, poisoned: what a kernel leaves unwritten or writes outside
// shows. 0xFF is NaN in every float format that we have.
class GuardedDevice {
 public:
  static constexpr int64_t kGuard = 4096;
  static constexpr uint8_t kPoison = 0xFF;
  static constexpr uint8_t kGuardByte = 0xA5;

  explicit GuardedDevice(int64_t bytes) : bytes_(bytes) {
    CheckCuda(cudaMalloc(&data_, bytes + 2 * kGuard), "cudaMalloc");
    CheckCuda(cudaMemset(data_, kGuardByte, bytes + 2 * kGuard), "cudaMemset");
    Poison();
  }
  template <class T>
  explicit GuardedDevice(const std::vector<T>& values)
      : GuardedDevice(static_cast<int64_t>(values.size() * sizeof(T))) {
    Write(values.data(), bytes_);
  }
  ~GuardedDevice() {
    CheckGuards();
    cudaFree(data_);
  }
  GuardedDevice(const GuardedDevice&) = delete;
  GuardedDevice& operator=(const GuardedDevice&) = delete;

  int64_t bytes() const { return bytes_; }
  template <class T = void>
  T* as() const {
    return reinterpret_cast<T*>(static_cast<uint8_t*>(data_) + kGuard);
  }

  void Poison() {
    CheckCuda(cudaMemset(as(), kPoison, bytes_), "cudaMemset");
    CheckCuda(cudaDeviceSynchronize(), "Poison");  // tests' streams do not wait for the default one
  }
  void Write(const void* from, int64_t bytes) {
    CheckCuda(cudaMemcpy(as(), from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
    CheckCuda(cudaDeviceSynchronize(), "Write");  // the end of it may still be on its way
  }
  // After everything that was enqueued.
  template <class T>
  std::vector<T> Read() const {
    CheckCuda(cudaDeviceSynchronize(), "Read");
    std::vector<T> values(bytes_ / sizeof(T));
    CheckCuda(cudaMemcpy(values.data(), as(), bytes_, cudaMemcpyDeviceToHost), "cudaMemcpy");
    return values;
  }

 private:
  void CheckGuards() const {
    std::vector<uint8_t> guard(kGuard);
    for (const int64_t offset : {int64_t{0}, kGuard + bytes_}) {
      if (cudaMemcpy(guard.data(), static_cast<uint8_t*>(data_) + offset, kGuard,
                     cudaMemcpyDeviceToHost) != cudaSuccess) {
        ADD_FAILURE() << "the device is lost";
        return;
      }
      for (const uint8_t byte : guard) {
        if (byte != kGuardByte) {
          ADD_FAILURE() << "a kernel wrote outside its memory of " << bytes_ << " bytes";
          return;
        }
      }
    }
  }

  void* data_ = nullptr;
  int64_t bytes_;
};

// Where logical element `k` of a row lies in planes and codes on the GPU (docs/formats.md).
inline int64_t PermutedIndex(int64_t k) {
  const int64_t in = k % 16;
  return k - in + in % 8 / 2 * 4 + in / 8 * 2 + in % 2;
}

}  // namespace dualfp::cuda
