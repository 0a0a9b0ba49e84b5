#include "dualfp/kernels/quantize.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "dualfp/base/check.h"
#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/cpu/row_inner.h"
#include "dualfp/numeric/e8m0.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp {
namespace {

// Smaller pieces are not worth waking a thread for.
constexpr int64_t kMinParallelElements = int64_t{1} << 15;

const cpu::RowInner& Rows() { return *BestBackend(DeviceType::kCpu).rows; }

}  // namespace

float ActivationScale(float amax) {
  const float scale = amax / kE4m3Max;
  return scale == 0.0f ? 1.0f : scale;
}

float MxActivationScale(float amax) {
  return std::isinf(amax) ? amax : E8m0ToFloat(FloatToE8m0Ceil(amax / kE4m3Max));
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
  Check(quant != ActivationQuant::kNone && !HasGroupScales(quant), ErrorCode::kInvalidArgument,
        "quantize: ", ActivationQuantName(quant), " has no scale per row");
  Check(quant != ActivationQuant::kStaticPerTensor ||
            (static_scale > 0 && std::isfinite(static_scale)),
        ErrorCode::kInvalidArgument, "quantize: the static scale must be positive and finite");
  Check(x.device.type == DeviceType::kCpu && codes.device == x.device && scales.device == x.device,
        ErrorCode::kUnsupported, "quantize: x, codes and scales must be on the CPU");
  Check(context.threads != nullptr, ErrorCode::kInvalidArgument, "quantize: no thread pool");

  const cpu::RowInner& inner = Rows();
  const int64_t rows_at_a_time =
      std::max<int64_t>(1, kMinParallelElements / std::max<int64_t>(1, x.shape[1]));
  auto* scale = scales.as<float>();
  const auto measure = [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      scale[m] = inner.max_magnitude(x.Rows(m, m + 1).data, x.dtype, x.shape[1]);
    }
  };
  const auto encode = [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      inner.encode(x.Rows(m, m + 1).data, x.dtype, x.shape[1], scale[m],
                   codes.Rows(m, m + 1).as<uint8_t>());
    }
  };
  if (quant == ActivationQuant::kStaticPerTensor) {
    std::fill_n(scale, x.shape[0], static_scale);
  } else {
    context.threads->ParallelFor(x.shape[0], rows_at_a_time, std::cref(measure));
    if (quant == ActivationQuant::kDynamicPerTensor && x.shape[0] > 0) {
      std::fill_n(scale, x.shape[0], *std::max_element(scale, scale + x.shape[0]));
    }
    std::transform(scale, scale + x.shape[0], scale, ActivationScale);
  }
  context.threads->ParallelFor(x.shape[0], rows_at_a_time, std::cref(encode));
}

}  // namespace dualfp
