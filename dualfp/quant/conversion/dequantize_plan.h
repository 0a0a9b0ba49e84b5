// Quantized checkpoints as 16-bit ones.

#pragma once

#include <optional>
#include <string>

#include "dualfp/io/json.h"
#include "dualfp/io/safetensors.h"
#include "dualfp/quant/conversion/conversion.h"
#include "dualfp/tensor/dtype.h"

namespace dualfp {

// The module of a tensor MODULE.weight of codes (F8_E4M3); nothing for other tensors.
std::optional<std::string> CodesModule(const TensorEntry& entry);

// Whether the tensor belongs to the quantization alone: scales of weights, also those that stand
// beside an unquantized one, of inputs, and of cached keys and values.
bool IsScale(const Checkpoint& checkpoint, const TensorEntry& entry);

// MODULE.weight of `dtype`, BF16 or F16, from the planes of which `upper` is the entry. Exact where
// the dtype is that of the format: F16 of nested, but for outliers beyond its range, BF16 of
// nested12.
ConversionTask UnnestTask(const Checkpoint& checkpoint, const TensorEntry& upper,
                          const std::string& module, DType dtype);

// Every quantized weight as `dtype`, BF16 or F16, each value rounded once; scales go, other tensors
// stay as they are. Throws kUnsupported for a checkpoint that is not quantized, or as something
// that the engine does not read, and as CheckpointSource does for its tensors.
Conversion PlanDequantization(const Checkpoint& checkpoint, const Json& config, DType dtype);

}  // namespace dualfp
