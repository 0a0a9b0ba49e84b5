// A checkpoint in any format that the engine reads, tensor by tensor as the floats that it stands
// for.

#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/io/safetensors.h"
#include "dualfp/model/stored_matrix.h"
#include "dualfp/model/weight_source.h"

namespace dualfp {

struct DequantizedTensor {
  std::vector<int64_t> shape;
  std::string format;      // "BF16", "fp8_per_channel", "nested12", ...
  std::string unreadable;  // why it has no floats; empty: it has
};

// The rows of a tensor: all dimensions but the last one are one.
struct DequantizedRows {
  std::unique_ptr<TensorRows> values;  // F32, F16 or BF16
  std::unique_ptr<TensorRows> codes;  // F8_E4M3, of the same shape; nullptr where values are stored
};

class DequantizedCheckpoint {
 public:
  // Throws as Checkpoint::Open() and QuantizationConfig::Parse() do, and kInvalidFile for codes of
  // which the config does not say what they stand for.
  explicit DequantizedCheckpoint(const std::filesystem::path& directory);

  const std::string& name() const { return checkpoint_.name(); }

  // By name; that of a quantized weight, in codes or planes, is MODULE.weight. Scales and lower
  // planes are a part of that weight.
  const std::map<std::string, DequantizedTensor>& tensors() const { return tensors_; }

  // Of a readable one. Throws as CheckpointSource::OpenMatrix() and OpenPlanes() do for what is
  // wrong with it. Not to be called by two threads at a time; the rows are thread-safe, and refer
  // to the checkpoint's files alone.
  DequantizedRows Open(const std::string& name);

 private:
  DequantizedCheckpoint(const std::filesystem::path& directory, const Json& config);

  void Add(const TensorEntry& entry);

  Checkpoint checkpoint_;
  std::string nested_format_;  // empty: no planes
  CheckpointSource source_;    // of all but planes
  std::map<std::string, DequantizedTensor> tensors_;
};

}  // namespace dualfp
