#include "dualfp/tensor/quant_format.h"

namespace dualfp {
namespace {

constexpr std::array kPrecisions = {Precision::kExact, Precision::kFp8, Precision::kFp4};

}  // namespace

std::string_view PrecisionName(Precision precision) {
  switch (precision) {
    case Precision::kExact:
      return "exact";
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
  return name == "fp16" ? std::optional(Precision::kExact) : std::nullopt;
}

std::string_view ScaleGranularityName(ScaleGranularity granularity) {
  constexpr std::array<std::string_view, 5> kNames = {"none", "tensor", "channel", "block",
                                                      "group"};
  return kNames.at(static_cast<size_t>(granularity));
}

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
    case ActivationQuant::kDynamicPerGroup:
      return "per-group";
    case ActivationQuant::kDynamicMx:
      return "mx";
  }
  return "unknown";
}

}  // namespace dualfp
