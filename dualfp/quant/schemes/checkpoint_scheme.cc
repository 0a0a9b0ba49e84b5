#include "dualfp/quant/schemes/checkpoint_scheme.h"

#include <algorithm>
#include <array>

namespace dualfp {
namespace {

constexpr std::array kMethodNames = {
    std::string_view("fp8"), std::string_view("compressed-tensors"), std::string_view("modelopt")};

constexpr WeightScheme kMxfp8{QuantFormat::kMxfp8, ScaleGranularity::kGroup};

constexpr std::array kSchemes = {
    CheckpointScheme{"fp8-dynamic", kFp8PerTensor, false, QuantMethod::kFp8},
    CheckpointScheme{"fp8-static", kFp8PerTensor, true, QuantMethod::kFp8},
    CheckpointScheme{"fp8-channel", kFp8PerChannel, false, QuantMethod::kCompressedTensors},
    CheckpointScheme{"fp8-block", kFp8PerBlock, false, QuantMethod::kFp8},
    CheckpointScheme{"mxfp8", kMxfp8, false, QuantMethod::kCompressedTensors},
};

}  // namespace

std::string_view QuantMethodName(QuantMethod method) {
  return kMethodNames.at(static_cast<size_t>(method));
}

std::optional<QuantMethod> ParseQuantMethod(std::string_view name) {
  const auto* const found = std::find(kMethodNames.begin(), kMethodNames.end(), name);
  if (found == kMethodNames.end()) {
    return std::nullopt;
  }
  return static_cast<QuantMethod>(found - kMethodNames.begin());
}

std::span<const CheckpointScheme> CheckpointSchemes() { return kSchemes; }

const CheckpointScheme* FindCheckpointScheme(std::string_view name) {
  if (name == "fp8") {
    name = "fp8-dynamic";
  }
  const auto* const found =
      std::find_if(kSchemes.begin(), kSchemes.end(),
                   [name](const CheckpointScheme& scheme) { return scheme.name == name; });
  return found == kSchemes.end() ? nullptr : found;
}

std::string CheckpointSchemeNames() {
  std::string names = "fp8";
  for (const CheckpointScheme& scheme : kSchemes) {
    names.append(", ").append(scheme.name);
  }
  return names;
}

bool HasSpelling(QuantMethod method, const CheckpointScheme& scheme) {
  switch (method) {
    case QuantMethod::kFp8:
      return scheme.weights == kFp8PerTensor || scheme.weights == kFp8PerBlock;
    case QuantMethod::kCompressedTensors:
      return true;
    case QuantMethod::kModelOpt:
      return scheme.static_inputs || scheme.weights == kMxfp8;
  }
  return false;
}

DType WeightScaleDType(const LinearEncoding& encoding, DType dtype) {
  if (encoding.scheme.weights == kMxfp8) {
    return DType::kU8;
  }
  if (encoding.ue8m0) {
    return DType::kF8E8M0;
  }
  return encoding.method == QuantMethod::kCompressedTensors ? dtype : DType::kF32;
}

}  // namespace dualfp
