#include "dualfp/tensor/weight_scheme.h"

#include <algorithm>
#include <vector>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

std::vector<NamedScheme> AllSchemes() {
  std::vector<NamedScheme> schemes = {{"auto", "", std::nullopt}, {"none", "", kPlainWeights}};
  for (size_t i = 0; i < kQuantFormats.size(); ++i) {
    const auto format = static_cast<QuantFormat>(i);
    const QuantFormatInfo& info = kQuantFormats[i];
    const std::string name(info.name);
    if (format == QuantFormat::kPlain) {
      continue;
    }
    if (info.codec.bits == 0 || info.group_size > 0) {
      const auto granularity =
          info.group_size > 0 ? ScaleGranularity::kGroup : ScaleGranularity::kNone;
      schemes.push_back({name, "", WeightScheme{format, granularity}});
      continue;
    }
    for (const auto& [suffix, granularity] : {std::pair{"tensor", ScaleGranularity::kPerTensor},
                                              {"channel", ScaleGranularity::kPerChannel},
                                              {"block", ScaleGranularity::kBlock128}}) {
      schemes.push_back(
          {name + "_per_" + suffix, name + "-" + suffix, WeightScheme{format, granularity}});
    }
    schemes.push_back({name, "", WeightScheme{format, ScaleGranularity::kPerTensor}});
  }
  return schemes;
}

}  // namespace

std::span<const NamedScheme> WeightSchemes() {
  static const std::vector<NamedScheme> schemes = AllSchemes();
  return schemes;
}

const NamedScheme* FindWeightScheme(std::string_view name) {
  for (const NamedScheme& scheme : WeightSchemes()) {
    if (name == scheme.name || (!scheme.alias.empty() && name == scheme.alias)) {
      return &scheme;
    }
  }
  return nullptr;
}

std::string_view WeightSchemeName(const WeightScheme& scheme) {
  for (const NamedScheme& named : WeightSchemes()) {
    if (named.scheme == scheme) {
      return named.name;
    }
  }
  Fail(ErrorCode::kInternal, "no name for scales of granularity ",
       static_cast<int>(scheme.granularity), " of ", GetQuantFormatInfo(scheme.format).name);
}

std::string WeightSchemeNames() {
  std::string names;
  for (const NamedScheme& scheme : WeightSchemes()) {
    names += StrCat(names.empty() ? "" : ", ", scheme.name);
  }
  return names;
}

}  // namespace dualfp
