// C structs as the library's own types. Throws kInvalidArgument, naming the member, for numbers
// that no enumerator has and for shapes that cannot be.

#pragma once

#include "capi/dualfp.h"
#include "dualfp/kernels/quantize.h"
#include "dualfp/tensor/tensor_view.h"
#include "dualfp/tensor/weight.h"

namespace dualfp::capi {

// `name` is the argument's, for messages. Tensors without data become empty views.
TensorView ToView(const dualfp_tensor& tensor, const char* name);
// The same of one that must be there.
TensorView ToView(const dualfp_tensor* tensor, const char* name);

Device ToDevice(int32_t device);
Precision ToPrecision(int32_t precision);
QuantFormat ToFormat(int32_t format);
ScaleGranularity ToGranularity(int32_t granularity);
ActivationQuant ToActivationQuant(int32_t quant);
Weight ToWeight(const dualfp_weight& weight);

// Whether a struct is as large as this library's, or an older, smaller one that it knows.
void CheckSize(uint32_t given, size_t known, const char* name);

}  // namespace dualfp::capi
