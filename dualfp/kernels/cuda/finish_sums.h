// An epilogue of its own, for products whose kernel has none.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dualfp::cuda {

enum class FinishType { kF16, kBf16, kF32 };

// y[m, n] = activation(sums[m, n] + bias[n]) + residual[m, n].
struct FinishArgs {
  const float* sums = nullptr;  // [M, N], contiguous
  int64_t m = 0;
  int64_t n = 0;
  const float* bias = nullptr;     // [N], optional
  const void* residual = nullptr;  // like y, optional
  int64_t residual_stride = 0;     // elements between rows
  void* y = nullptr;               // [M, N], or [M, N/2] with silu_mul
  int64_t y_stride = 0;
  FinishType type = FinishType::kF16;  // of y and residual
  bool silu_mul = false;  // columns of the sums are g0, u0, g1, u1, ...: y = silu(g) * u
};

void FinishSums(const FinishArgs& args, cudaStream_t stream);

}  // namespace dualfp::cuda
