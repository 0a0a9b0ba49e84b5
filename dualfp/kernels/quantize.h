// Quantization of activations to E4M3, the left operand of an FP8 GEMM (weights:
// quantize_weight.h). A row is scaled by s and every element becomes RNE_E4M3(x / s), saturating at
// ±448:
//   * dynamic: s = max |x| / 448 over a row (per token) or over the whole matrix (per tensor).
//     Where that is zero (all elements zero, or too small for float), s = 1 and the codes follow.
//   * per group: likewise over so many consecutive elements of a row.
//   * mx: the same over 32 elements, with s = 2^ceil(log2(max |x| / 448)), a value of E8M0.
//   * static: s comes with the checkpoint.
// The quotient is rounded to float first, as it is on a GPU.
//
// NaN is left out of the maximum and becomes the E4M3 NaN, so that row's products are NaN.
// An infinity makes a dynamic s infinite and so poisons every product that uses s.

#pragma once

#include <cstdint>
#include <string_view>

#include "dualfp/kernels/context.h"
#include "dualfp/tensor/quant_format.h"
#include "dualfp/tensor/tensor_view.h"

namespace dualfp {

// The scale for a maximum magnitude, as defined above.
float ActivationScale(float amax);

// Of kDynamicMx: the least power of two that is not below amax / 448; infinite where amax is.
float MxActivationScale(float amax);

// Consecutive elements of a row of `k` that share a scale.
constexpr int64_t ActivationGroupSize(ActivationQuant quant, int64_t k) {
  return quant == ActivationQuant::kDynamicPerGroup ? kActivationGroup
         : quant == ActivationQuant::kDynamicMx     ? kMxGroup
                                                    : k;
}

// Of a group with that maximum magnitude, for the quantizations that have groups.
inline float GroupActivationScale(ActivationQuant quant, float amax) {
  return quant == ActivationQuant::kDynamicMx ? MxActivationScale(amax) : ActivationScale(amax);
}

// codes[m,k] = E4M3(x[m,k] / scales[m]).
//   x       F32, F16 or BF16 [M, K]; rows may be strided, columns are contiguous
//   codes   F8_E4M3 [M, K], likewise
//   scales  F32 [M]
// `static_scale` is used by kStaticPerTensor only and must be positive and finite.
// Throws kInvalidArgument on shapes and dtypes, for kNone, and for scales along K.
void QuantizeActivations(const Context& context, const ConstTensorView& x, ActivationQuant quant,
                         float static_scale, const TensorView& codes, const TensorView& scales);

}  // namespace dualfp
