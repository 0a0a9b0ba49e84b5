// The baseline: cuBLASLt, loaded at run time.

#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace dualfp::gpu {

// Y[M,N] = X[M,K] · W[N,K]ᵀ: FP16 or BF16 in and out, or E4M3 in and FP16 out. On the device that
// was current when it was made.
class CublasLt {
 public:
  // The library that DUALFP_CUBLASLT names, else the system's. Throws kUnsupported when it does not
  // load.
  CublasLt();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  struct Problem {
    cudaDataType_t type = CUDA_R_16F;  // of X and W: or CUDA_R_16BF, CUDA_R_8F_E4M3
    bool fast_accumulation = true;     // of E4M3
    int m = 0;
    int n = 0;
    int k = 0;
    const void* x = nullptr;
    void* y = nullptr;
    // Of E4M3, instead of one scale: of 128x128 weights [ceil(N/128), ceil(K/128)], rows at
    // multiples of four, and of each token's 128 elements [ceil(K/128), M]. What cuBLASLt does not
    // support has no algorithms.
    const float* w_block_scales = nullptr;
    const float* x_group_scales = nullptr;
  };

  // Up to `most` algorithms by cuBLASLt's own heuristic; returns how many.
  int Prepare(const Problem& problem, int most);
  // The prepared problem with algorithm `index` on these weights.
  void Run(int index, const void* w, cudaStream_t stream);

  // FP8 products without block scales are scaled by this, which keeps them in FP16's range.
  static constexpr float kFp8Scale = 1.0f / 256;

  // "13.1.0".
  std::string version() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// nullptr, with a note and `consequence` to standard error, where it is absent and
// DUALFP_CUBLASLT does not name it. Throws kUnsupported where what that names does not load.
std::unique_ptr<CublasLt> OpenCublasLt(const char* consequence);

}  // namespace dualfp::gpu
