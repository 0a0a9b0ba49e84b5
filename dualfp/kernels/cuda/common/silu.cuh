// silu(v) = v / (1 + exp(-v)), by the same instructions wherever kernels need it, so that fusing it
// changes no bit.

#pragma once

namespace dualfp::cuda {

// The .ftz forms save the scaling around subnormals, of which there are none that matter: the
// exponential is added to 1, and the reciprocal is of at least 1.
__device__ __forceinline__ float Silu(float v) {
  constexpr float kLog2E = 1.44269504f;
  float exponential;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(exponential) : "f"(v * -kLog2E));
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(1.0f + exponential));
  return v * reciprocal;
}

}  // namespace dualfp::cuda
