// The baseline: cuBLASLt, loaded at run time.

#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace dualfp::gpu {

// Y[M,N] = X[M,K] · W[N,K]ᵀ, FP16 in and out, or E4M3 in and FP16 out. On the device that was
// current when it was made.
class CublasLt {
 public:
  // The library that DUALFP_CUBLASLT names, else the system's. Throws kUnsupported when it does not
  // load.
  CublasLt();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  struct Problem {
    bool fp8 = false;
    bool fast_accumulation = true;
    int m = 0;
    int n = 0;
    int k = 0;
    const void* x = nullptr;
    void* y = nullptr;
  };

  // Up to `most` algorithms by cuBLASLt's own heuristic; returns how many.
  int Prepare(const Problem& problem, int most);
  // The prepared problem with algorithm `index` on these weights.
  void Run(int index, const void* w, cudaStream_t stream);

  // FP8 products are scaled by this, which keeps them in FP16's range.
  static constexpr float kFp8Scale = 1.0f / 256;

  // "13.1.0".
  std::string version() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dualfp::gpu
