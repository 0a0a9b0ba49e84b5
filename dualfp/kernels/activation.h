// Elementwise activations that are not a GEMM's epilogue, and softmax.

#pragma once

#include "dualfp/kernels/context.h"

namespace dualfp {

// y = silu(gate) * up, silu(x) = x / (1 + exp(-x)). The GEMM's kSiluMul epilogue does the same for
// an interleaved gate/up weight; this op is for gate and up that come from two GEMMs.
struct SiluMulArgs {
  ConstTensorView gate;  // F32 [rows, width]; rows may be strided
  ConstTensorView up;    // like gate
  TensorView y;          // like gate; may be gate or up itself
};

void SiluMul(const Context& context, const SiluMulArgs& args);

// y = softmax(x * scale) over the last axis (scale = 1 / temperature).
struct SoftmaxArgs {
  ConstTensorView x;  // F32 [rows, width]; rows may be strided
  float scale = 1.0f;
  TensorView y;  // like x; may be x itself
};

void Softmax(const Context& context, const SoftmaxArgs& args);

}  // namespace dualfp
