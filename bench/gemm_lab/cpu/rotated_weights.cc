#include "bench/gemm_lab/cpu/rotated_weights.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "dualfp/model/fill_linear.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"

namespace dualfp {
namespace {

std::vector<CpuFormat> AllFormats() {
  constexpr ActivationQuant kWeightOnly = ActivationQuant::kNone;
  constexpr ActivationQuant kToken = ActivationQuant::kDynamicPerToken;
  std::vector<CpuFormat> formats;
  for (const auto& [name, dtype] :
       {std::pair{"f16", DType::kF16}, {"bf16", DType::kBF16}, {"f32", DType::kF32}}) {
    formats.push_back({name, kPlainWeights, dtype, Precision::kExact, kWeightOnly});
  }
  for (const NamedScheme& named : WeightSchemes()) {
    if (!named.scheme.has_value() || *named.scheme == kPlainWeights) {
      continue;
    }
    const QuantFormatInfo& info = GetQuantFormatInfo(named.scheme->format);
    const auto add = [&](const char* suffix, Precision precision, ActivationQuant quant) {
      if (Offers(info, precision)) {
        formats.push_back({named.name + suffix, *named.scheme, DType::kF16, precision, quant});
      }
    };
    if (info.codec.bits == 0) {
      add("", Precision::kExact, kWeightOnly);
      add("-fp8", Precision::kFp8, kToken);
      add("-fp8-weight-only", Precision::kFp8, kWeightOnly);
    } else if (Offers(info, Precision::kFp4)) {
      add("", Precision::kFp4, kWeightOnly);
      add("-fp8", Precision::kFp8, kToken);
    } else {
      add("", Precision::kFp8, kToken);
      add("-weight-only", Precision::kFp8, kWeightOnly);
    }
  }
  return formats;
}

const std::vector<CpuFormat>& CpuFormats() {
  static const std::vector<CpuFormat> formats = AllFormats();
  return formats;
}

// FP16 values as rows of `dtype`.
class ConvertedRows : public TensorRows {
 public:
  ConvertedRows(const ConstTensorView& fp16, DType dtype)
      : TensorRows(dtype, fp16.shape[1]), fp16_(fp16) {}

  const void* Row(int64_t index, void* scratch) const override {
    const auto* values = fp16_.Rows(index, index + 1).as<uint16_t>();
    if (dtype_ == DType::kF16) {
      return values;
    }
    for (int64_t i = 0; i < columns_; ++i) {
      const float value = Fp16ToFloat(values[i]);
      if (dtype_ == DType::kF32) {
        static_cast<float*>(scratch)[i] = value;
      } else {
        static_cast<uint16_t*>(scratch)[i] = FloatToBf16(value);
      }
    }
    return scratch;
  }

 private:
  ConstTensorView fp16_;
};

double BytesRead(const CpuFormat& format, int64_t n, int64_t k) {
  const BitsPerWeight bits = GetQuantFormatInfo(format.scheme.format).bits;
  const double read = format.scheme == kPlainWeights          ? 8.0 * DTypeSize(format.source)
                      : format.precision == Precision::kExact ? bits.fp16
                      : format.precision == Precision::kFp8   ? bits.fp8
                                                              : bits.fp4;
  return static_cast<double>(n) * static_cast<double>(k) * read / 8;
}

}  // namespace

const CpuFormat* FindCpuFormat(std::string_view name) {
  const auto found = std::find_if(CpuFormats().begin(), CpuFormats().end(),
                                  [&](const CpuFormat& format) { return format.name == name; });
  return found == CpuFormats().end() ? nullptr : &*found;
}

std::vector<std::string> CpuFormatNames() {
  std::vector<std::string> names;
  for (const CpuFormat& format : CpuFormats()) {
    names.push_back(format.name);
  }
  return names;
}

RotatedWeights::RotatedWeights(ThreadPool& threads, const CpuFormat& format, const Buffer& fp16,
                               int64_t n, int64_t k, int64_t bytes) {
  const ConvertedRows rows(fp16.View(DType::kF16, {n, k}), format.source);
  const auto copies =
      static_cast<int64_t>(std::ceil(static_cast<double>(bytes) / BytesRead(format, n, k)));
  for (int64_t copy = 0; copy < copies; ++copy) {
    Linear linear;
    linear.weight.n = n;
    linear.weight.k = k;
    linear.weight.shard = {0, n, 0, k};
    linear.parts = {{"random", n, k, 0, n, 0, k}};
    AllocateLinear(linear, format.scheme, format.source);
    FillPart(linear, linear.parts[0], rows, n * k, ErrorCode::kInternal, threads);
    FinishOutliers(linear);
    linears_.push_back(std::move(linear));
  }
}

}  // namespace dualfp
