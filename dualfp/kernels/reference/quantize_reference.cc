#include "dualfp/kernels/reference/quantize_reference.h"

#include <cmath>

#include "dualfp/base/check.h"
#include "dualfp/kernels/reference/rows.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp::reference {

float MaxMagnitude(const ConstTensorView& x) {
  float amax = 0.0f;
  for (int64_t m = 0; m < x.shape[0]; ++m) {
    const ConstTensorView row = x.Rows(m, m + 1);
    for (int64_t k = 0; k < x.shape[1]; ++k) {
      const float magnitude = std::fabs(LoadElement(row.data, row.dtype, k));
      amax = magnitude > amax ? magnitude : amax;
    }
  }
  return amax;
}

float RowScale(const ConstTensorView& row, ActivationQuant quant, float static_scale,
               float tensor_amax) {
  switch (quant) {
    case ActivationQuant::kNone:
      return 1.0f;
    case ActivationQuant::kDynamicPerToken:
      return ActivationScale(MaxMagnitude(row));
    case ActivationQuant::kDynamicPerTensor:
      return ActivationScale(tensor_amax);
    case ActivationQuant::kStaticPerTensor:
      return static_scale;
  }
  Fail(ErrorCode::kInternal, "unknown activation quantization");
}

float QuantizeToE4m3(float x, float scale) { return E4m3ToFloat(FloatToE4m3(x / scale)); }

}  // namespace dualfp::reference
