// The ways to hold a weight, by the names that the command line, benchmarks and reports share.

#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "dualfp/tensor/quant_format.h"

namespace dualfp {

struct WeightScheme {
  QuantFormat format = QuantFormat::kPlain;
  ScaleGranularity granularity = ScaleGranularity::kNone;

  friend bool operator==(const WeightScheme&, const WeightScheme&) = default;
};

inline constexpr WeightScheme kPlainWeights{};
inline constexpr WeightScheme kNestedWeights{QuantFormat::kNested};
inline constexpr WeightScheme kNested12Weights{QuantFormat::kNested12};
// E4M3 codes with one scale for each projection, output row or 128 x 128 block of a projection.
inline constexpr WeightScheme kFp8PerTensor{QuantFormat::kFp8, ScaleGranularity::kPerTensor};
inline constexpr WeightScheme kFp8PerChannel{QuantFormat::kFp8, ScaleGranularity::kPerChannel};
inline constexpr WeightScheme kFp8PerBlock{QuantFormat::kFp8, ScaleGranularity::kBlock128};

// What a layer's input goes through beside such weights, unless the checkpoint or a caller says
// otherwise: scales along K where the weight has them along K, else one for each token.
constexpr ActivationQuant DefaultActivationQuant(const WeightScheme& scheme) {
  return scheme.format == QuantFormat::kMxfp8                ? ActivationQuant::kDynamicMx
         : scheme.granularity == ScaleGranularity::kBlock128 ? ActivationQuant::kDynamicPerGroup
                                                             : ActivationQuant::kDynamicPerToken;
}

struct NamedScheme {
  std::string name;                    // "auto", "none", "nested", "fp8", "fp8_per_tensor", ...
  std::string alias;                   // another spelling, or empty
  std::optional<WeightScheme> scheme;  // nothing for "auto": as the checkpoint says
};

// "auto" and "none" (plain, in the checkpoint's type), then every format of kQuantFormats with each
// granularity that it has; a format with several also goes by its bare name, per tensor, as in
// vLLM.
std::span<const NamedScheme> WeightSchemes();

// By name or alias; nullptr where there is none.
const NamedScheme* FindWeightScheme(std::string_view name);

// The name in the table.
std::string_view WeightSchemeName(const WeightScheme& scheme);

// "auto, none, nested, ...": for messages and help.
std::string WeightSchemeNames();

}  // namespace dualfp
