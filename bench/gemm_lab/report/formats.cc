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
    {"nested", "NestedFP16", "cuBLASLt FP16", WeightFormat::kNested, false, false, 5e-4},
    {"nested12", "BF16 in 12 bits", "cuBLASLt BF16", WeightFormat::kNested12Bf16, false, false,
     4e-3},
    {"nested12-f16", "BF16 in 12 bits, FP16 activations", "cuBLASLt FP16",
     WeightFormat::kNested12F16, false, false, 5e-4},
    {"f16", "FP16", "cuBLASLt FP16", WeightFormat::kF16, false, false, 5e-4},
    {"bf16", "BF16", "cuBLASLt BF16", WeightFormat::kBf16, false, false, 4e-3},
    {"fp8", "FP8", "cuBLASLt FP8", WeightFormat::kE4m3, false, false, 5e-3},
    {"fp8-nested12", "FP8 of 12 bits", "cuBLASLt FP8", WeightFormat::kE4m3, false, true, 5e-3},
    {"fp8-promoted", "FP8, promoted", "cuBLASLt FP8 promoted", WeightFormat::kE4m3Promoted, false,
     false, 5e-3},
    {"fp8-block", "FP8, block scales", "cuBLASLt FP8 block scales", WeightFormat::kE4m3Promoted,
     true, false, 5e-3},
};

}  // namespace

bool IsTuned(const GemmFormat& format) { return !format.block_scaled && !format.row_scaled; }

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
  return *std::find_if(std::begin(kFormats), std::end(kFormats),
                       [&](const GemmFormat& f) { return f.weights == weights && IsTuned(f); });
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
    if (IsTuned(format)) {
      names.emplace_back(format.name);
    }
  }
  return names;
}

}  // namespace dualfp
