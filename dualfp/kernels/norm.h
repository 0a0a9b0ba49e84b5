// Root-mean-square layer normalisation (Zhang and Sennrich, arXiv 1910.07467).

#pragma once

#include "dualfp/kernels/context.h"
#include "dualfp/kernels/quantize.h"

namespace dualfp {

// y = x / sqrt(mean(x^2) + epsilon) * weight, over the last axis.
struct RmsNormArgs {
  // Activation [rows, width] or [rows, heads, width]; the last axis is contiguous.
  ConstTensorView x;
  ConstTensorView weight;  // F32 [width]
  float epsilon = 1e-6f;
  TensorView y;  // shape and dtype of x; may be x itself
};

// The same with a result that the next FP8 product takes quantized (GemmArgs::x_scales): bit for
// bit what QuantizeActivations() makes of y in F32. On a GPU for F16 and BF16 and widths that are
// multiples of 16, and codes lie as its FP8 products want them (docs/formats.md).
struct RmsNormQuantizeArgs {
  ConstTensorView x;       // activation [rows, width]; rows may be strided
  ConstTensorView weight;  // F32 [width]
  float epsilon = 1e-6f;
  ActivationQuant quant = ActivationQuant::kDynamicPerToken;  // or kStaticPerTensor
  float static_scale = 0.0f;
  TensorView codes;   // F8_E4M3 [rows, width]
  TensorView scales;  // F32 [rows]
};

// A row's result does not depend on the other rows nor on the number of threads.
// Throws kInvalidArgument when shapes or dtypes are not as above.
void RmsNorm(const Context& context, const RmsNormArgs& args);
void RmsNormQuantize(const Context& context, const RmsNormQuantizeArgs& args);

}  // namespace dualfp
