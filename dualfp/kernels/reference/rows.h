// Rows of activations and weights as floats, one scalar at a time through numeric/. What the
// reference kernels are made of, and the definition of each format for everyone else.

#pragma once

#include <cstdint>

#include "dualfp/tensor/tensor_view.h"
#include "dualfp/tensor/weight.h"

namespace dualfp::reference {

// One element of a row of dtype F32, F16 or BF16.
float LoadElement(const void* row, DType dtype, int64_t index);
// Rounds to nearest even.
void StoreElement(void* row, DType dtype, int64_t index, float value);

// `values` [K] = row `row` of the logical weight as a GEMM at `precision` uses it: scales applied,
// outliers added. Exact, but for the rounding of q * scale to float.
void DecodeWeightRow(const Weight& weight, Precision precision, int64_t row, float* values);

}  // namespace dualfp::reference
