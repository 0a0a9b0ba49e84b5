// What a GEMM does with its sums: Y = activation(X·Wᵀ + bias) + residual.

#pragma once

#include <cstdint>

namespace dualfp {

enum class Activation : uint8_t {
  kNone,
  kSiluMul,  // W interleaves gate and up rows (g0, u0, g1, u1, ...); Y is [M, N/2] = silu(g) * u
};

}  // namespace dualfp
