// Quantization to E4M3: activations, the left operand of an FP8 GEMM, and weights, the right one.
//
// Activations: a row is scaled by s and every element becomes RNE_E4M3(x / s), saturating at ±448:
//   * dynamic: s = max |x| / 448 over a row (per token) or over the whole matrix (per tensor).
//     Where that is zero (all elements zero, or too small for float), s = 1 and the codes follow.
//   * static: s comes with the checkpoint.
// The quotient is rounded to float first, as it is on a GPU.
//
// NaN is left out of the maximum and becomes the E4M3 NaN, so that row's products are NaN.
// An infinity makes a dynamic s infinite and so poisons every product that uses s.
//
// Weights: s = max |w| / 448 over the matrix, an output row or a block of 128 x 128, 1 where that
// is zero, and every element becomes RNE_E4M3(w / s); the element that makes the maximum becomes
// +-448.

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

// Scales of an [n, k] weight: 1, n or ceil(n / 128) * ceil(k / 128).
// Throws kInvalidArgument for a granularity that FP8 weights do not have.
int64_t Fp8WeightScales(ScaleGranularity granularity, int64_t n, int64_t k);

// codes[n,k] = E4M3(weight[n,k] / s), in the layout of Weight (tensor/weight.h).
//   weight  F32, F16 or BF16 [N, K], finite; rows may be strided, columns are contiguous
//   codes   F8_E4M3 [N, K], contiguous
//   scales  F32 [Fp8WeightScales()]
// Throws kInvalidArgument on shapes, dtypes and granularity.
void QuantizeWeight(const Context& context, const ConstTensorView& weight,
                    ScaleGranularity granularity, const TensorView& codes,
                    const TensorView& scales);

}  // namespace dualfp
