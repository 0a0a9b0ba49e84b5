// Reading the planes of nested checkpoints back.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "dualfp/io/safetensors.h"
#include "dualfp/model/stored_matrix.h"
#include "dualfp/tensor/weight.h"

namespace dualfp {

// The tensors of one weight; names in errors are the checkpoint's and the weight's.
struct StoredPlanes {
  std::string module;
  int64_t n = 0;
  int64_t k = 0;
  std::optional<TensorData> upper;
  std::optional<TensorData> lower;   // nested
  std::optional<TensorData> nibble;  // nested12
  std::optional<TensorData> shift;   // nested12
  std::optional<TensorData> index;   // of outliers or remainders
  std::optional<TensorData> value;

  bool is_nested12() const { return nibble.has_value(); }
  OutlierList outliers() const;
};

// The module of a tensor MODULE.weight_upper; nothing for other tensors.
std::optional<std::string> PlanesModule(const TensorEntry& entry);

// Whether the tensor is another of the planes of a weight in the checkpoint.
bool IsOtherPlane(const Checkpoint& checkpoint, const TensorEntry& entry);

// Opens and checks them, with one thread. Throws kNotFound for a missing plane, kInvalidFile for a
// wrong dtype or shape and for planes that no weight has.
StoredPlanes OpenPlanes(const Checkpoint& checkpoint, const std::string& module);

// The weights that planes, outliers and remainders hold together, exactly: F32.
std::unique_ptr<TensorRows> Dequantize(StoredPlanes planes);

}  // namespace dualfp
