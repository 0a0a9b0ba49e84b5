#include "bench/gemm_lab/cpu/rotated_weights.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>

#include "dualfp/base/check.h"
#include "dualfp/kernels/nest12.h"
#include "dualfp/numeric/fp16.h"

namespace dualfp {
namespace {

// Weights of a format together exceed this: four times the largest last-level cache in sight.
constexpr int64_t kRotatedBytes = int64_t{128} << 20;

constexpr CpuFormat kFormats[] = {
    {"f16", QuantFormat::kPlain, DType::kF16, Precision::kExact, ActivationQuant::kNone},
    {"bf16", QuantFormat::kPlain, DType::kBF16, Precision::kExact, ActivationQuant::kNone},
    {"f32", QuantFormat::kPlain, DType::kF32, Precision::kExact, ActivationQuant::kNone},
    {"nested", QuantFormat::kNested, DType::kF8E4M3, Precision::kExact, ActivationQuant::kNone},
    {"nested-fp8", QuantFormat::kNested, DType::kF8E4M3, Precision::kFp8,
     ActivationQuant::kDynamicPerToken},
    {"nested-fp8-weight-only", QuantFormat::kNested, DType::kF8E4M3, Precision::kFp8,
     ActivationQuant::kNone},
    {"nested12", QuantFormat::kNested12, DType::kF8E4M3, Precision::kExact, ActivationQuant::kNone},
    {"nested12-fp8", QuantFormat::kNested12, DType::kF8E4M3, Precision::kFp8,
     ActivationQuant::kDynamicPerToken},
    {"fp8", QuantFormat::kFp8, DType::kF8E4M3, Precision::kFp8, ActivationQuant::kDynamicPerToken},
    {"fp8-weight-only", QuantFormat::kFp8, DType::kF8E4M3, Precision::kFp8, ActivationQuant::kNone},
};

}  // namespace

std::span<const CpuFormat> CpuFormats() { return kFormats; }

const CpuFormat* FindCpuFormat(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFormats), std::end(kFormats),
                                   [&](const CpuFormat& format) { return format.name == name; });
  return found == std::end(kFormats) ? nullptr : found;
}

std::string CpuFormatNames() {
  std::string names;
  for (const CpuFormat& format : kFormats) {
    names += StrCat(names.empty() ? "" : ", ", format.name);
  }
  return names;
}

RotatedWeights::RotatedWeights(ThreadPool& threads, const CpuFormat& format, const Buffer& fp16,
                               int64_t n, int64_t k) {
  const ConstTensorView source = fp16.View(DType::kF16, {n, k});
  Weight weight;
  weight.format = format.format;
  weight.n = n;
  weight.k = k;
  weight.shard = {0, n, 0, k};
  const int64_t bytes_read = format.precision == Precision::kFp8 ? n * k : n * k * int64_t{2};
  const int64_t copies = (kRotatedBytes + bytes_read - 1) / bytes_read;
  for (int64_t copy = 0; copy < copies; ++copy) {
    switch (format.format) {
      case QuantFormat::kNested: {
        const TensorView upper = Allocate(DType::kF8E4M3, n, k);
        const TensorView lower = Allocate(DType::kU8, n, k);
        Nest(threads, "random weight", source, upper, lower, 0, &outliers_);
        weight.values = upper;
        weight.lower = lower;
        break;
      }
      case QuantFormat::kNested12: {
        TensorView shifts = Allocate(DType::kI8, n, 1);
        shifts.rank = 1;
        const Nested12Planes planes = {.upper = Allocate(DType::kF8E4M3, n, k),
                                       .nibble = Allocate(DType::kU8, n, NibbleBytes(k)),
                                       .shift = shifts};
        Nest12(threads, "random weight", source, planes, n * k, &outliers_);
        weight.values = planes.upper;
        weight.lower = planes.nibble;
        weight.scales = planes.shift;
        break;
      }
      case QuantFormat::kFp8: {
        const TensorView codes = Allocate(DType::kF8E4M3, n, k);
        const TensorView scales = Allocate(DType::kF32, n, 1);
        Context context;
        context.threads = &threads;
        TensorView row_scales = scales;
        row_scales.rank = 1;
        QuantizeActivations(context, source, ActivationQuant::kDynamicPerToken, 0, codes,
                            row_scales);
        weight.values = codes;
        weight.scales = scales;
        weight.scale_granularity = ScaleGranularity::kPerChannel;
        break;
      }
      default:
        weight.values = Plain(source, format.dtype);
    }
    weights_.push_back(weight);
  }
  for (Weight& rotated : weights_) {
    rotated.outliers = outliers_.View();
  }
}

TensorView RotatedWeights::Allocate(DType dtype, int64_t n, int64_t k) {
  buffers_.push_back(Buffer::AllocateCpu(n * k * DTypeSize(dtype)));
  return buffers_.back().View(dtype, {n, k});
}

TensorView RotatedWeights::Plain(const ConstTensorView& source, DType dtype) {
  const TensorView view = Allocate(dtype, source.shape[0], source.shape[1]);
  if (dtype == DType::kF16) {
    std::memcpy(view.data, source.data, source.num_bytes());
    return view;
  }
  for (int64_t i = 0; i < source.num_elements(); ++i) {
    const float value = Fp16ToFloat(source.as<uint16_t>()[i]);
    const auto bits = std::bit_cast<uint32_t>(value);
    if (dtype == DType::kF32) {
      view.as<float>()[i] = value;
    } else {
      view.as<uint16_t>()[i] = static_cast<uint16_t>(bits >> 16);
    }
  }
  return view;
}

}  // namespace dualfp
