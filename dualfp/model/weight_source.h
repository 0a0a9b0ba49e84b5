// Where a model's tensors come from: a checkpoint, or a random generator that makes realistic
// weights of any size so that speed can be measured without a download.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/io/safetensors.h"
#include "dualfp/tensor/dtype.h"

namespace dualfp {

// One tensor, held open for reading row by row. Thread-safe.
class TensorRows {
 public:
  TensorRows(DType dtype, int64_t columns) : dtype_(dtype), columns_(columns) {}
  virtual ~TensorRows() = default;

  DType dtype() const { return dtype_; }
  int64_t row_bytes() const { return columns_ * DTypeSize(dtype_); }

  // Row `index`, either in place or written to `scratch` (row_bytes() bytes).
  virtual const void* Row(int64_t index, void* scratch) const = 0;

 protected:
  DType dtype_;
  int64_t columns_;
};

// Element `i` of a row, F32, F16 or BF16.
float LoadFloat(const void* row, DType dtype, int64_t i);

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual bool Has(std::string_view name) const = 0;

  // `shape` is what the model expects; a vector counts as one row. Throws, naming tensor, expected
  // shape and found shape: kNotFound for a missing tensor, kInvalidFile for a wrong shape,
  // kUnsupported for a dtype other than F64 (which is read as F32), F32, F16 and BF16.
  virtual std::unique_ptr<TensorRows> Open(const std::string& name,
                                           const std::vector<int64_t>& shape) = 0;

  // The value of a tensor of one element, where there is one of that name.
  virtual std::optional<float> FindScalar(const std::string& name) = 0;

  // Tensors that nobody opened, "NAME [SHAPE]", but for those that follow from config.json: the
  // model has no place for them.
  virtual std::vector<std::string> Unused() const = 0;

  // Of all tensors; 0 when unknown.
  virtual int64_t total_bytes() const = 0;
};

// Whether config.json's quantization_config says that matrices are stored as Nested12 (formats.md).
// Throws kInvalidFile for fields of a wrong type.
bool IsNested12Checkpoint(const Json& quantization_config);

// Checkpoints of a bare base model (LlamaModel) have their tensors without the leading "model.".
//
// A tensor NAME.weight that is stored as Nested12 (formats.md: NAME.weight_upper, _nibble, _shift,
// NAME.remainder_index, _value) is opened as the BF16 one that it is, under that name. Throws
// kInvalidFile for planes and remainders that no weight has.
class CheckpointSource : public WeightSource {
 public:
  explicit CheckpointSource(Checkpoint checkpoint);

  bool Has(std::string_view name) const override {
    return Find(name) != nullptr || FindPlane(name, "weight_upper") != nullptr;
  }
  std::unique_ptr<TensorRows> Open(const std::string& name,
                                   const std::vector<int64_t>& shape) override;
  std::optional<float> FindScalar(const std::string& name) override;
  std::vector<std::string> Unused() const override;
  int64_t total_bytes() const override { return static_cast<int64_t>(checkpoint_.total_bytes()); }

 private:
  const TensorEntry* Find(std::string_view name) const;
  // NAME.`plane` of NAME.weight; nullptr where there is none.
  const TensorEntry* FindPlane(std::string_view name, std::string_view plane) const;
  std::unique_ptr<TensorRows> OpenNested12(const std::string& name,
                                           const std::vector<int64_t>& shape);
  // One of its tensors, of just this type and shape; a negative size stands for any.
  TensorData ReadPlane(const std::string& name, std::string_view plane, DType dtype,
                       const std::vector<int64_t>& shape);

  Checkpoint checkpoint_;
  bool is_base_model_ = false;
  std::set<std::string, std::less<>> used_;
  std::set<std::string, std::less<>> checked_;  // Nested12 tensors
};

// Independent normal weights, F16 or BF16, with standard deviation 1 / sqrt(columns), so that
// activations keep their size; norm weights are 1 and biases 0. A tensor is a function of seed,
// type and name alone.
class DummySource : public WeightSource {
 public:
  explicit DummySource(uint64_t seed, DType dtype = DType::kF16) : seed_(seed), dtype_(dtype) {}

  bool Has(std::string_view name) const override;
  std::unique_ptr<TensorRows> Open(const std::string& name,
                                   const std::vector<int64_t>& shape) override;
  std::optional<float> FindScalar(const std::string&) override { return std::nullopt; }
  std::vector<std::string> Unused() const override { return {}; }
  int64_t total_bytes() const override { return 0; }

 private:
  uint64_t seed_;
  DType dtype_;
};

}  // namespace dualfp
