// The schemes that checkpoints are written in: what each is called, which formats it has on disk,
// and whose arithmetic makes its codes (docs/formats.md).

#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "dualfp/tensor/dtype.h"
#include "dualfp/tensor/weight_scheme.h"

namespace dualfp {

// quantization_config.quant_method, and with it the names and shapes of tensors.
enum class QuantMethod : uint8_t { kFp8, kCompressedTensors, kModelOpt };

// "fp8", "compressed-tensors", "modelopt".
std::string_view QuantMethodName(QuantMethod method);
std::optional<QuantMethod> ParseQuantMethod(std::string_view name);

// How linear layers' weights and inputs are quantized.
struct CheckpointScheme {
  std::string_view name;
  WeightScheme weights;
  bool static_inputs = false;  // an input scale per layer, by calibration
  QuantMethod default_method = QuantMethod::kCompressedTensors;
};

// fp8-dynamic, fp8-static, fp8-channel, fp8-block, mxfp8.
std::span<const CheckpointScheme> CheckpointSchemes();

// By name; "fp8" is fp8-dynamic, as in AutoFP8. nullptr where there is none.
const CheckpointScheme* FindCheckpointScheme(std::string_view name);

// "fp8, fp8-dynamic, ...": for messages and help.
std::string CheckpointSchemeNames();

// Whether the method has a spelling for the scheme.
bool HasSpelling(QuantMethod method, const CheckpointScheme& scheme);

// What the quotient w / scale is computed in before it is rounded to E4M3.
enum class Division : uint8_t {
  kProducer,  // as the method's own tool: compressed-tensors and AutoFP8 in the weight's dtype
  kFloat,     // in FP32
};

enum class ScaleSearch : uint8_t {
  kAmax,  // the largest magnitude becomes the format's largest value
  kMse,   // of some scales around that, the one with the least squared error
};

// All that decides about the bytes of one linear layer.
struct LinearEncoding {
  CheckpointScheme scheme;
  QuantMethod method = QuantMethod::kCompressedTensors;
  Division division = Division::kProducer;
  ScaleSearch search = ScaleSearch::kAmax;
  bool ue8m0 = false;  // block scales are powers of two, stored as F8_E8M0
};

// The dtype of the stored weight scales of a weight of `dtype`.
DType WeightScaleDType(const LinearEncoding& encoding, DType dtype);

}  // namespace dualfp
