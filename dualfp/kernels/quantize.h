// Quantization of activations to E4M3, the left operand of an FP8 GEMM (weights:
// quantize_weight.h). A row is scaled by s and every element becomes RNE_E4M3(x / s), saturating at
// ±448:
//   * dynamic: s = max |x| / 448 over a row (per token) or over the whole matrix (per tensor).
//     Where that is zero (all elements zero, or too small for float), s = 1 and the codes follow.
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

// What happens to X before the multiplication at Precision::kFp8.
enum class ActivationQuant : uint8_t {
  kNone,              // weight-only: X is used as it is
  kDynamicPerToken,   // s[m] = amax(X[m,:]) / 448, X/s rounded to E4M3 (the default at kFp8)
  kDynamicPerTensor,  // one s for all rows: rows of a batch then depend on each other
  kStaticPerTensor,   // s = Weight::input_scale
  // s[m,g] = amax / 448 over 128 consecutive elements of a row, as checkpoints with 128x128 weight
  // blocks expect. GEMMs only: QuantizeActivations() has one scale a row.
  kDynamicPerGroup,
};

// "weight-only", "per-token", "per-tensor", "static", "per-group".
std::string_view ActivationQuantName(ActivationQuant quant);

constexpr int64_t kActivationGroup = 128;  // of kDynamicPerGroup

// The scale for a maximum magnitude, as defined above.
float ActivationScale(float amax);

// codes[m,k] = E4M3(x[m,k] / scales[m]).
//   x       F32, F16 or BF16 [M, K]; rows may be strided, columns are contiguous
//   codes   F8_E4M3 [M, K], likewise
//   scales  F32 [M]
// `static_scale` is used by kStaticPerTensor only and must be positive and finite.
// Throws kInvalidArgument on shapes and dtypes, and for kNone and kDynamicPerGroup.
void QuantizeActivations(const Context& context, const ConstTensorView& x, ActivationQuant quant,
                         float static_scale, const TensorView& codes, const TensorView& scales);

}  // namespace dualfp
