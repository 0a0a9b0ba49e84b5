// Quantization of weights to codes and scales, for every format with a codec (quant_format.h).
//
// A scale s belongs to the whole matrix, an output row, a block of 128 x 128 or a group along K, of
// largest magnitude a, and every element becomes encode(w / s), the quotient rounded to float:
//   F32 scales      s = a / max, where `max` is the format's largest value; 1 where that is zero
//   F8_E8M0 scales  s = 2^ceil(log2(a / max)), within E8M0's range
//   F8_E4M3 scales  s = g * e with g = A / (max * 448), A the largest magnitude of the matrix, and
//                   e = E4M3(a / (max * g)), at least 2^-9; 1 where a is zero. (g is 1 where A is
//                   0)

#pragma once

#include <array>
#include <cstdint>

#include "dualfp/kernels/context.h"
#include "dualfp/tensor/tensor_view.h"
#include "dualfp/tensor/weight_scheme.h"

namespace dualfp {

// Rows and columns of the scales of an [n, k] weight: [1, 1], [n, 1], blocks of 128 or groups.
// Throws kInvalidArgument for a scheme without scales and where groups do not divide k.
std::array<int64_t, 2> ScaleShape(const WeightScheme& scheme, int64_t n, int64_t k);

// max |w|, by the calling thread. `weight` is F32, F16 or BF16 [N, K] with contiguous columns.
float WeightMaxMagnitude(const ConstTensorView& weight);

// The one scale of a matrix whose largest magnitude is `amax`: kPerTensor's s, or g where scales
// are F8_E4M3; 1 for other schemes.
float WeightMatrixScale(const WeightScheme& scheme, float amax);

// Rows of one matrix, by the calling thread. All may lie strided rows apart:
//   weight  F32, F16 or BF16 [rows, K], finite. kBlock128: one block of rows, 128 or fewer
//   codes   the format's Weight::values for them: [rows, K] or [rows, K / 2]
//   scales  ScaleShape() of these rows, of the format's dtype; unused for kPerTensor
// `matrix_scale` is WeightMatrixScale() of the whole matrix.
void QuantizeWeightRows(const ConstTensorView& weight, const WeightScheme& scheme,
                        float matrix_scale, const TensorView& codes, const TensorView& scales);

// How w becomes the value that E4M3 rounds: divided by the scale, or multiplied by its reciprocal
// `factor`; in float, or rounded to w's own dtype first, as a model's arithmetic would.
struct E4m3Quotient {
  float factor = 1.0f;
  bool multiply = false;
  bool rounded = false;
};

// Codes of `n` weights, F32, F16 or BF16, by the calling thread. A NaN, and nothing else, becomes
// a NaN.
void EncodeE4m3(const void* weights, DType dtype, int64_t n, const E4m3Quotient& quotient,
                uint8_t* codes);

// A whole matrix. `scales` has ScaleShape(), or as many elements; `global_scale` F32 [1] gets g and
// may be empty where the format has none.
// Throws kInvalidArgument on shapes and dtypes, kUnsupported for tensors that are not on the CPU.
void QuantizeWeight(const Context& context, const ConstTensorView& weight,
                    const WeightScheme& scheme, const TensorView& codes, const TensorView& scales,
                    const TensorView& global_scale = {});

}  // namespace dualfp
