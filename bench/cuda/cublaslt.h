// The baseline: cuBLASLt, loaded at run time so that the benchmark starts on machines without it.

#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <vector>

namespace dualfp::bench {

// Y[M,N] = X[M,K] · W[N,K]ᵀ, FP16 in and out, or E4M3 in with fast accumulation and FP16 out.
class CublasLt {
 public:
  // `library`: a path or a soname; throws kUnsupported when it does not load.
  explicit CublasLt(const std::string& library);

  struct Problem {
    bool fp8 = false;
    bool fast_accumulation = true;
    int m = 0;
    int n = 0;
    int k = 0;
    const void* w = nullptr;
    const void* x = nullptr;
    void* y = nullptr;
  };

  // Up to `most` algorithms by cuBLASLt's own heuristic; returns how many.
  int Prepare(const Problem& problem, int most);
  // The prepared problem with algorithm `index`, on other weights.
  void Run(int index, const void* w, cudaStream_t stream);

  size_t version() const { return version_; }

 private:
  struct State;
  State* state_;
  size_t version_ = 0;
};

}  // namespace dualfp::bench
