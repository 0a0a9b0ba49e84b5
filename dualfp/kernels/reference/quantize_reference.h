// Activation quantization by its definition (kernels/quantize.h), one scalar at a time.

#pragma once

#include "dualfp/kernels/quantize.h"

namespace dualfp::reference {

// max |x| over all elements of a [M, K] view, NaN left out.
float MaxMagnitude(const ConstTensorView& x);

// The scale of one row [1, K]; 1 for ActivationQuant::kNone. `tensor_amax` is used per tensor only.
float RowScale(const ConstTensorView& row, ActivationQuant quant, float static_scale,
               float tensor_amax);

// The value of E4M3(x / scale).
float QuantizeToE4m3(float x, float scale);

}  // namespace dualfp::reference
