#include "dualfp/kernels/quantize.h"

#include <cmath>

#include "dualfp/base/check.h"
#include "dualfp/kernels/reference/quantize_reference.h"
#include "dualfp/kernels/reference/rows.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp {

std::string_view ActivationQuantName(ActivationQuant quant) {
  switch (quant) {
    case ActivationQuant::kNone:
      return "weight-only";
    case ActivationQuant::kDynamicPerToken:
      return "per-token";
    case ActivationQuant::kDynamicPerTensor:
      return "per-tensor";
    case ActivationQuant::kStaticPerTensor:
      return "static";
  }
  return "unknown";
}

float ActivationScale(float amax) {
  const float scale = amax / kE4m3Max;
  return scale == 0.0f ? 1.0f : scale;
}

void QuantizeActivations(const Context& context, const ConstTensorView& x, ActivationQuant quant,
                         float static_scale, const TensorView& codes, const TensorView& scales) {
  const bool rows = x.rank == 2 && (x.shape[1] <= 1 || x.strides[1] == 1);
  Check(rows && (x.dtype == DType::kF32 || x.dtype == DType::kF16 || x.dtype == DType::kBF16),
        ErrorCode::kInvalidArgument, "quantize: x must be F32, F16 or BF16 [M, K]");
  Check(codes.rank == 2 && codes.dtype == DType::kF8E4M3 && codes.shape == x.shape &&
            (x.shape[1] <= 1 || codes.strides[1] == 1),
        ErrorCode::kInvalidArgument, "quantize: codes must be F8_E4M3, of x's shape");
  Check(scales.rank == 1 && scales.dtype == DType::kF32 && scales.shape[0] == x.shape[0] &&
            scales.is_contiguous(),
        ErrorCode::kInvalidArgument, "quantize: scales must be F32, one per row of x");
  Check(quant != ActivationQuant::kNone, ErrorCode::kInvalidArgument,
        "quantize: weight-only has no activation codes");
  Check(quant != ActivationQuant::kStaticPerTensor ||
            (static_scale > 0 && std::isfinite(static_scale)),
        ErrorCode::kInvalidArgument, "quantize: the static scale must be positive and finite");
  Check(x.device.type == DeviceType::kCpu && codes.device == x.device && scales.device == x.device,
        ErrorCode::kUnsupported, "quantize: x, codes and scales must be on the CPU");
  Check(context.threads != nullptr, ErrorCode::kInvalidArgument, "quantize: no thread pool");

  const float tensor_amax =
      quant == ActivationQuant::kDynamicPerTensor ? reference::MaxMagnitude(x) : 0.0f;
  context.threads->ParallelFor(x.shape[0], 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      const ConstTensorView row = x.Rows(m, m + 1);
      const float scale = reference::RowScale(row, quant, static_scale, tensor_amax);
      auto* out = codes.Rows(m, m + 1).as<uint8_t>();
      for (int64_t k = 0; k < x.shape[1]; ++k) {
        out[k] = FloatToE4m3(reference::LoadElement(row.data, row.dtype, k) / scale);
      }
      scales.as<float>()[m] = scale;
    }
  });
}

}  // namespace dualfp
