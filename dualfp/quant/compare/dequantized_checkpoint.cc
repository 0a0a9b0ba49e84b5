#include "dualfp/quant/compare/dequantized_checkpoint.h"

#include <optional>
#include <string_view>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/quantization_config.h"
#include "dualfp/quant/conversion/conversion.h"
#include "dualfp/quant/conversion/dequantize_plan.h"
#include "dualfp/quant/conversion/nested_plan.h"
#include "dualfp/quant/conversion/stored_planes.h"
#include "dualfp/tensor/tensor_view.h"
#include "dualfp/tensor/weight_scheme.h"

namespace dualfp {
namespace {

constexpr std::string_view kWeightSuffix = ".weight";

std::string ModuleOf(std::string_view weight) {
  return std::string(weight.substr(0, weight.size() - kWeightSuffix.size()));
}

// Of what is stored beside planes.
QuantizationConfig QuantizationOf(const Json& config, const std::filesystem::path& directory) {
  if (!NestedFormatOf(config, directory.string()).empty()) {
    return {};
  }
  const auto found = config.find("quantization_config");
  return QuantizationConfig::Parse(found == config.end() ? Json() : *found,
                                   (directory / "config.json").string());
}

bool IsFloat(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 ||
         dtype == DType::kBF16;
}

}  // namespace

DequantizedCheckpoint::DequantizedCheckpoint(const std::filesystem::path& directory)
    : DequantizedCheckpoint(directory, ReadConfigJson(directory)) {}

DequantizedCheckpoint::DequantizedCheckpoint(const std::filesystem::path& directory,
                                             const Json& config)
    : checkpoint_(Checkpoint::Open(directory)),
      nested_format_(NestedFormatOf(config, directory.string())),
      source_(Checkpoint::Open(directory), QuantizationOf(config, directory)) {
  for (const TensorEntry& entry : checkpoint_.entries()) {
    Add(entry);
  }
}

void DequantizedCheckpoint::Add(const TensorEntry& entry) {
  if (!nested_format_.empty()) {
    if (const auto module = PlanesModule(entry)) {
      tensors_[StrCat(*module, kWeightSuffix)] = {.shape = entry.shape, .format = nested_format_};
      return;
    }
    if (IsOtherPlane(checkpoint_, entry)) {
      return;
    }
  }
  if (IsScale(checkpoint_, entry)) {
    return;
  }
  DequantizedTensor tensor{.shape = entry.shape};
  const std::optional<std::string> module = CodesModule(entry);
  if (module && entry.shape.size() == 2) {
    tensor.format = WeightSchemeName(source_.StoredAs(*module).scheme);
  } else {
    tensor.format = entry.foreign_dtype.empty() ? DTypeName(entry.dtype) : entry.foreign_dtype;
    if (!entry.foreign_dtype.empty() || !IsFloat(entry.dtype)) {
      tensor.unreadable = StrCat(tensor.format, " in ", name());
    } else if (entry.shape.empty() || entry.shape.size() > kMaxRank) {
      tensor.unreadable = StrCat(entry.shape.size(), " dimensions in ", name());
    }
  }
  tensors_[entry.name] = std::move(tensor);
}

DequantizedRows DequantizedCheckpoint::Open(const std::string& name) {
  const DequantizedTensor& tensor = tensors_.at(name);
  CheckInternal(tensor.unreadable.empty(), name, " has no floats");
  if (const TensorEntry* entry = checkpoint_.Find(name)) {
    const std::optional<std::string> module = CodesModule(*entry);
    if (!module) {
      return {source_.Open(name, tensor.shape), nullptr};
    }
    const auto open = [&] { return source_.OpenMatrix(*module, tensor.shape[0], tensor.shape[1]); };
    return {Dequantize(open()), open().rows};
  }
  return {Dequantize(OpenPlanes(checkpoint_, ModuleOf(name))), nullptr};
}

}  // namespace dualfp
