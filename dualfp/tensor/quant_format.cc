#include "dualfp/tensor/quant_format.h"

#include <array>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

constexpr std::array kPrecisions = {Precision::kFp16, Precision::kFp8, Precision::kFp4};

constexpr std::array kFormats = {
    QuantFormatInfo{QuantFormat::kPlain, "plain", 0, 16, 16, 0, 0},
    QuantFormatInfo{QuantFormat::kNested, "nested", 0, 16, 16, 8, 0},
    QuantFormatInfo{QuantFormat::kFp8, "fp8", 0, 8, 8, 8, 0},
    QuantFormatInfo{QuantFormat::kNvfp4, "nvfp4", 16, 4.5, 4.5, 4.5, 4.5},
    QuantFormatInfo{QuantFormat::kMxfp4, "mxfp4", 32, 4.25, 4.25, 4.25, 4.25},
    QuantFormatInfo{QuantFormat::kMxfp8, "mxfp8", 32, 8.25, 8.25, 8.25, 0},
};

}  // namespace

std::string_view PrecisionName(Precision precision) {
  switch (precision) {
    case Precision::kFp16:
      return "fp16";
    case Precision::kFp8:
      return "fp8";
    case Precision::kFp4:
      return "fp4";
  }
  return "unknown";
}

std::optional<Precision> ParsePrecision(std::string_view name) {
  for (Precision precision : kPrecisions) {
    if (PrecisionName(precision) == name) {
      return precision;
    }
  }
  return std::nullopt;
}

std::span<const QuantFormatInfo> QuantFormats() { return kFormats; }

const QuantFormatInfo& GetQuantFormatInfo(QuantFormat format) {
  const auto index = static_cast<size_t>(format);
  CheckInternal(index < kFormats.size() && kFormats[index].format == format, "unknown format ",
                index);
  return kFormats[index];
}

}  // namespace dualfp
