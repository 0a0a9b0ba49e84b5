// One product as cuBLASLt describes it: what its GEMMs here and benchmarks' baselines are made of.

#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "dualfp/kernels/cuda/common/cublaslt_api.h"

namespace dualfp::cuda::lt {

struct ProductShape {
  cudaDataType_t type = CUDA_R_16F;      // of W and X
  cudaDataType_t out_type = CUDA_R_16F;  // of C and D
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  int64_t x_stride = 0;  // elements between rows; W's are K apart
  int64_t c_stride = 0;
  int64_t d_stride = 0;
};

struct Operands {
  const void* w = nullptr;  // [N, K]
  const void* x = nullptr;  // [M, K]
  const void* c = nullptr;  // [M, N], may be d
  void* d = nullptr;        // [M, N]
};

// D = X · Wᵀ + beta C with FP32 sums: to cuBLASLt, which is column-major, Dᵀ [N, M] = W · Xᵀ.
// Functions throw kInternal where cuBLASLt refuses a call.
class Product {
 public:
  Product(const Api& api, const ProductShape& shape);
  Product(Product&& other) noexcept;
  ~Product();
  Product& operator=(Product&&) = delete;

  // Of the operation's descriptor: kDesc... of cublaslt_api.h.
  template <class T>
  void Set(int attribute, const T& value) {
    Set(attribute, &value, sizeof(value));
  }

  // The library's own ranking for at most `workspace_bytes`: fills `found`, returns how many there
  // are. `alignment`: bytes that W, X, C and D are aligned to, up to 256.
  int FindAlgorithms(Object handle, uint64_t workspace_bytes,
                     const std::array<uint32_t, 4>& alignment, std::span<Heuristic> found) const;

  // Enqueues.
  void Run(Object handle, const Algorithm& algorithm, const Operands& operands, float beta,
           void* workspace, size_t workspace_bytes, cudaStream_t stream) const;

 private:
  void Set(int attribute, const void* value, size_t bytes);
  void Destroy();

  const Api& api_;
  Object desc_ = nullptr;
  std::array<Object, 4> layouts_{};  // of W, X, C and D
};

}  // namespace dualfp::cuda::lt
