#include "bench/gemm_lab/report/formats.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"

namespace dualfp {
namespace {

using sm90::WeightFormat;

constexpr GemmFormat kFormats[] = {
    {"nested", "NestedFP16", "cuBLASLt FP16", WeightFormat::kNested, false, 5e-4},
    {"f16", "FP16", "cuBLASLt FP16", WeightFormat::kF16, false, 5e-4},
    {"bf16", "BF16", "cuBLASLt BF16", WeightFormat::kBf16, false, 4e-3},
    {"fp8", "FP8", "cuBLASLt FP8", WeightFormat::kE4m3, false, 5e-3},
    {"fp8-promoted", "FP8, promoted", "cuBLASLt FP8 promoted", WeightFormat::kE4m3Promoted, false,
     5e-3},
    {"fp8-block", "FP8, block scales", "cuBLASLt FP8 block scales", WeightFormat::kE4m3Promoted,
     true, 5e-3},
};

}  // namespace

std::span<const GemmFormat> GemmFormats() { return kFormats; }

const GemmFormat* FindFormat(std::string_view name) {
  const auto* const found = std::find_if(std::begin(kFormats), std::end(kFormats),
                                         [&](const GemmFormat& f) { return f.name == name; });
  return found == std::end(kFormats) ? nullptr : found;
}

const GemmFormat& FormatByName(std::string_view name) {
  const GemmFormat* found = FindFormat(name);
  Check(found != nullptr, ErrorCode::kInvalidArgument, "format ", QuoteForMessage(name),
        ": expected ", fmt::format("{}", fmt::join(FormatNames(), ", ")));
  return *found;
}

const GemmFormat& FormatOf(WeightFormat weights) {
  return *std::find_if(std::begin(kFormats), std::end(kFormats), [&](const GemmFormat& f) {
    return f.weights == weights && !f.block_scaled;
  });
}

std::vector<std::string> FormatNames() {
  std::vector<std::string> names;
  for (const GemmFormat& format : kFormats) {
    names.emplace_back(format.name);
  }
  return names;
}

std::vector<std::string> TunedFormatNames() {
  std::vector<std::string> names;
  for (const GemmFormat& format : kFormats) {
    if (!format.block_scaled) {
      names.emplace_back(format.name);
    }
  }
  return names;
}

}  // namespace dualfp
