// The quantized weights of a checkpoint: codes and their scales, under all the names and in all the
// shapes that tools write (docs/formats.md).

#include <algorithm>
#include <array>
#include <cmath>

#include "dualfp/base/check.h"
#include "dualfp/kernels/quantize_weight.h"
#include "dualfp/model/weight_source.h"
#include "dualfp/numeric/e8m0.h"

namespace dualfp {
namespace {

// vLLM's and compressed-tensors', DeepSeek's, DeepSeek-V4's and transformers' others.
constexpr std::array<std::string_view, 4> kScaleNames = {"weight_scale", "weight_scale_inv",
                                                         "scale", "qscale_weight"};
constexpr std::array<std::string_view, 2> kInputScaleNames = {"input_scale", "activation_scale"};

bool IsQuantized(const TensorEntry& entry) {
  return entry.foreign_dtype.empty() && entry.dtype == DType::kF8E4M3;
}

std::string ShapeText(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += StrCat(i == 0 ? "" : ", ", shape[i]);
  }
  return text + "]";
}

// Whether two shapes differ in dimensions of 1 alone: tools write [], [1] and [1, 1], [N] and
// [N, 1], [N / 128, 1, K / 128, 1].
bool SameButForOnes(std::span<const int64_t> a, std::span<const int64_t> b) {
  const auto longer = [](std::span<const int64_t> shape) {
    std::vector<int64_t> sizes;
    std::copy_if(shape.begin(), shape.end(), std::back_inserter(sizes),
                 [](int64_t size) { return size != 1; });
    return sizes;
  };
  return longer(a) == longer(b);
}

}  // namespace

const TensorEntry* CheckpointSource::FindSuffixed(
    const std::string& name, std::span<const std::string_view> suffixes) const {
  for (const std::string_view suffix : suffixes) {
    if (const TensorEntry* entry = Find(StrCat(name, ".", suffix))) {
      return entry;
    }
  }
  return nullptr;
}

void CheckpointSource::IgnoreScales(const std::string& name) {
  for (const std::span<const std::string_view> suffixes :
       {std::span<const std::string_view>(kScaleNames),
        std::span<const std::string_view>(kInputScaleNames)}) {
    for (const std::string_view suffix : suffixes) {
      if (const TensorEntry* entry = Find(StrCat(name, ".", suffix))) {
        used_.insert(entry->name);
      }
    }
  }
}

std::vector<float> CheckpointSource::ReadScales(const TensorEntry& entry) {
  const bool known =
      entry.foreign_dtype.empty() &&
      (entry.dtype == DType::kF32 || entry.dtype == DType::kF16 || entry.dtype == DType::kBF16 ||
       entry.dtype == DType::kF8E8M0 || entry.dtype == DType::kU8);
  int64_t count = 1;
  for (const int64_t size : entry.shape) {
    count = size == 0 || count > kMaxScales / size ? 0 : count * size;
  }
  Check(known && count > 0, ErrorCode::kInvalidFile, checkpoint_.name(), ": tensor ", entry.name,
        " is ", entry.foreign_dtype.empty() ? DTypeName(entry.dtype) : entry.foreign_dtype,
        ShapeText(entry.shape), ", expected scales: F32, F16, BF16, F8_E8M0 or U8");
  used_.insert(entry.name);
  const TensorData data = checkpoint_.Read(entry);
  std::vector<float> scales(count);
  for (int64_t i = 0; i < count; ++i) {
    scales[i] = DTypeSize(entry.dtype) == 1 ? E8m0ToFloat(data.view().as<uint8_t>()[i])
                                            : LoadFloat(data.view().data, entry.dtype, i);
    Check(std::isfinite(scales[i]) && scales[i] >= 0, ErrorCode::kInvalidFile, checkpoint_.name(),
          ": tensor ", entry.name, " is ", scales[i], " at element ", i,
          ", expected a scale that is not negative");
  }
  return scales;
}

std::optional<std::vector<float>> CheckpointSource::FindScales(const std::string& name) {
  const TensorEntry* entry = Find(name);
  return entry == nullptr ? std::nullopt : std::optional(ReadScales(*entry));
}

LinearQuantization CheckpointSource::StoredAs(const std::string& name) const {
  const TensorEntry* entry = Find(name + ".weight");
  const bool codes = entry != nullptr && IsQuantized(*entry);
  const bool packed = entry == nullptr && Find(name + ".weight_packed") != nullptr;
  const bool bytes = entry != nullptr && entry->dtype == DType::kU8;
  if (!codes && !packed && !bytes) {
    return {};
  }
  const LinearQuantization quantization = quantization_.Of(name);
  const QuantFormatInfo& info = GetQuantFormatInfo(quantization.scheme.format);
  Check(!packed && !bytes, ErrorCode::kUnsupported, checkpoint_.name(), ": tensor ", name,
        packed ? ".weight_packed" : ".weight", " is stored as ", info.name,
        ", expected fp8, mxfp8 or floats");
  Check(info.values == DType::kF8E4M3 && info.codec.bits == 8, ErrorCode::kInvalidFile,
        checkpoint_.name(), ": tensor ", name, ".weight is F8_E4M3, but quantization_config ",
        quantization_.quantized() ? StrCat("says that it is ", info.name) : "is absent");
  return quantization;
}

StoredMatrix CheckpointSource::OpenMatrix(const std::string& name, int64_t rows, int64_t columns) {
  StoredMatrix matrix;
  matrix.quantization = StoredAs(name);
  if (!matrix.quantized()) {
    IgnoreScales(name);
    matrix.rows = Open(name + ".weight", {rows, columns});
    return matrix;
  }
  const TensorEntry* entry = Find(name + ".weight");
  const std::vector<int64_t> shape = {rows, columns};
  Check(entry->shape == shape, ErrorCode::kInvalidFile, checkpoint_.name(), ": tensor ",
        entry->name, " has shape ", ShapeText(entry->shape), ", expected ", ShapeText(shape),
        " from config.json");
  const WeightScheme& scheme = matrix.quantization.scheme;
  const int group = GetQuantFormatInfo(scheme.format).group_size;
  Check(group == 0 || columns % group == 0, ErrorCode::kInvalidFile, checkpoint_.name(),
        ": tensor ", entry->name, " has ", columns, " columns, which scales of ", group,
        " do not divide");
  const TensorEntry* scale = FindSuffixed(name, kScaleNames);
  Check(scale != nullptr, ErrorCode::kNotFound, checkpoint_.name(), ": tensor ", entry->name,
        " is F8_E4M3, but its scale is missing: expected ", name, ".weight_scale or ", name,
        ".weight_scale_inv");
  const std::array<int64_t, 2> expected = ScaleShape(scheme, rows, columns);
  Check(SameButForOnes(scale->shape, expected), ErrorCode::kInvalidFile, checkpoint_.name(),
        ": tensor ", scale->name, " has shape ", ShapeText(scale->shape), ", expected ",
        ShapeText(expected), ": the scales of ", WeightSchemeName(scheme),
        ", as quantization_config says");
  IgnoreScales(name);
  matrix.scales = ReadScales(*scale);
  if (matrix.quantization.activation == ActivationQuant::kStaticPerTensor) {
    const TensorEntry* input = FindSuffixed(name, kInputScaleNames);
    Check(input != nullptr, ErrorCode::kNotFound, checkpoint_.name(), ": tensor ", name,
          ".input_scale is missing: quantization_config says that activation scales are static");
    const std::vector<float> scales = ReadScales(*input);
    Check(scales.size() == 1 && scales[0] > 0, ErrorCode::kInvalidFile, checkpoint_.name(),
          ": tensor ", input->name, " is ", scales[0], ShapeText(input->shape),
          ", expected one positive scale");
    matrix.input_scale = scales[0];
  }
  used_.insert(entry->name);
  matrix.rows = OpenRows(*entry);
  return matrix;
}

}  // namespace dualfp
