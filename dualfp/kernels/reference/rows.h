// Rows of activations and weights as floats, one scalar at a time through numeric/. What the
// reference kernels are made of, and the definition of each format for everyone else.

#pragma once

#include <cstdint>

#include "dualfp/kernels/cpu/row_inner.h"
#include "dualfp/tensor/weight.h"

namespace dualfp::reference {

// The loops along a row, by the definitions of numeric/.
extern const cpu::RowInner kRowInner;

// `values` [K] = row `row` of the logical weight as a GEMM at `precision` uses it: scales applied,
// outliers added. Exact, but for the rounding of q * scale to float.
void DecodeWeightRow(const Weight& weight, Precision precision, int64_t row, float* values);

}  // namespace dualfp::reference
