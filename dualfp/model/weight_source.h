// Where a model's tensors come from: a checkpoint, or a random generator that makes realistic
// weights of any size so that speed can be measured without a download.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/io/quantization_config.h"
#include "dualfp/io/safetensors.h"
#include "dualfp/model/stored_matrix.h"
#include "dualfp/tensor/dtype.h"

namespace dualfp {

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual bool Has(std::string_view name) const = 0;

  // `shape` is what the model expects; a vector counts as one row. Throws, naming tensor, expected
  // shape and found shape: kNotFound for a missing tensor, kInvalidFile for a wrong shape,
  // kUnsupported for a dtype other than F64 (which is read as F32), F32, F16 and BF16.
  virtual std::unique_ptr<TensorRows> Open(const std::string& name,
                                           const std::vector<int64_t>& shape) = 0;

  // How the weight of a linear layer, NAME.weight, is stored; plain where that is floats. Whether
  // it is quantized, its dtype says; how, the checkpoint's config. Throws kInvalidFile where the
  // two contradict each other.
  virtual LinearQuantization StoredAs(const std::string&) const { return {}; }

  // Whether anything is quantized, other than exactly.
  virtual bool quantized() const { return false; }

  // NAME.weight, [rows, columns], and its scales. Throws as Open() does, and for scales: kNotFound
  // for a missing tensor, kInvalidFile for a shape that the config does not ask for, and for a
  // negative one, a NaN or infinity. Scales beside floats mean nothing, as transformers writes
  // them uninitialised.
  virtual StoredMatrix OpenMatrix(const std::string& name, int64_t rows, int64_t columns) {
    return {.rows = Open(name + ".weight", {rows, columns})};
  }

  // The elements of a tensor of scales of whatever shape, where there is one of that name: F32,
  // F16, BF16, F8_E8M0, or U8 that stands for F8_E8M0. Throws kInvalidFile for another dtype, and
  // for more than kMaxScales elements.
  static constexpr int64_t kMaxScales = int64_t{1} << 24;
  virtual std::optional<std::vector<float>> FindScales(const std::string& name) = 0;

  // Tensors that nobody opened, "NAME [SHAPE]", but for those that follow from config.json: the
  // model has no place for them.
  virtual std::vector<std::string> Unused() const = 0;

  // Of all tensors; 0 when unknown.
  virtual int64_t total_bytes() const = 0;
};

// Checkpoints of a bare base model (LlamaModel) have their tensors without the leading "model.".
//
// A tensor NAME.weight that is stored as Nested12 (formats.md: NAME.weight_upper, _nibble, _shift,
// NAME.remainder_index, _value) is opened as the BF16 one that it is, under that name. Throws
// kInvalidFile for planes and remainders that no weight has.
class CheckpointSource : public WeightSource {
 public:
  explicit CheckpointSource(Checkpoint checkpoint, QuantizationConfig quantization = {});

  bool Has(std::string_view name) const override {
    return Find(name) != nullptr || FindPlane(name, "weight_upper") != nullptr;
  }
  std::unique_ptr<TensorRows> Open(const std::string& name,
                                   const std::vector<int64_t>& shape) override;
  LinearQuantization StoredAs(const std::string& name) const override;
  bool quantized() const override {
    return quantization_.quantized() && quantization_.method() != "dualfp";
  }
  StoredMatrix OpenMatrix(const std::string& name, int64_t rows, int64_t columns) override;
  std::optional<std::vector<float>> FindScales(const std::string& name) override;
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

  std::vector<float> ReadScales(const TensorEntry& entry);
  // The first tensor NAME.SUFFIX of these suffixes; nullptr where there is none.
  const TensorEntry* FindSuffixed(const std::string& name,
                                  std::span<const std::string_view> suffixes) const;
  std::unique_ptr<TensorRows> OpenRows(const TensorEntry& entry);
  // Marks NAME's scales as used.
  void IgnoreScales(const std::string& name);

  Checkpoint checkpoint_;
  QuantizationConfig quantization_;
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
  std::optional<std::vector<float>> FindScales(const std::string&) override { return std::nullopt; }
  std::vector<std::string> Unused() const override { return {}; }
  int64_t total_bytes() const override { return 0; }

 private:
  uint64_t seed_;
  DType dtype_;
};

}  // namespace dualfp
