#include "dualfp/model/weight_source.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/thread_pool.h"
#include "dualfp/kernels/nest12.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"

namespace dualfp {
namespace {

std::string ShapeText(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += StrCat(i == 0 ? "" : ", ", shape[i]);
  }
  return text + "]";
}

class CheckpointRows : public TensorRows {
 public:
  explicit CheckpointRows(TensorData data)
      : TensorRows(data.view().dtype, data.view().shape[data.view().rank - 1]),
        data_(std::move(data)) {}

  const void* Row(int64_t index, void*) const override {
    return static_cast<const char*>(data_.view().data) + index * row_bytes();
  }

 private:
  TensorData data_;
};

// Doubles as floats.
class DoubleRows : public TensorRows {
 public:
  explicit DoubleRows(TensorData data)
      : TensorRows(DType::kF32, data.view().shape[data.view().rank - 1]), data_(std::move(data)) {}

  const void* Row(int64_t index, void* scratch) const override {
    const double* row = data_.view().as<double>() + index * columns_;
    auto* out = static_cast<float*>(scratch);
    std::transform(row, row + columns_, out, [](double x) { return static_cast<float>(x); });
    return out;
  }

 private:
  TensorData data_;
};

// Nested12 planes as the BF16 weights that they are.
class Nested12Rows : public TensorRows {
 public:
  Nested12Rows(TensorData upper, TensorData nibble, TensorData shift, TensorData index,
               TensorData value)
      : TensorRows(DType::kBF16, upper.view().shape[1]),
        upper_(std::move(upper)),
        nibble_(std::move(nibble)),
        shift_(std::move(shift)),
        index_(std::move(index)),
        value_(std::move(value)) {}

  ConstNested12Planes planes() const { return {upper_.view(), nibble_.view(), shift_.view()}; }
  OutlierList remainders() const {
    return index_.view().shape[0] == 0 ? OutlierList{} : OutlierList{index_.view(), value_.view()};
  }

  const void* Row(int64_t index, void* scratch) const override {
    Unnest12Row(planes(), remainders(), index, static_cast<uint16_t*>(scratch));
    return scratch;
  }

 private:
  TensorData upper_;
  TensorData nibble_;
  TensorData shift_;
  TensorData index_;
  TensorData value_;
};

// Tensors that published checkpoints carry and that follow from config.json.
bool IsDerived(std::string_view name) { return name.ends_with(".rotary_emb.inv_freq"); }

// The next 64 random bits (splitmix64: Steele et al., OOPSLA 2014).
uint64_t NextRandom(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

uint64_t Hash(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : text) {
    hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  }
  return hash;
}

constexpr int kQuantiles = 1 << 16;

// Quantile (i + 0.5) / kQuantiles of the standard normal distribution, by Newton's method on the
// error function.
std::vector<float> NormalQuantiles() {
  std::vector<float> quantiles(kQuantiles);
  double x = -4.5;
  for (int i = 0; i < kQuantiles; ++i) {
    const double target = (i + 0.5) / kQuantiles;
    for (int step = 0; step < 8; ++step) {
      const double density = std::exp(-0.5 * x * x) * 0.3989422804014327;
      const double change = (0.5 * std::erfc(-x * 0.7071067811865476) - target) / density;
      x -= change;
      if (std::abs(change) < 1e-6) {
        break;
      }
    }
    quantiles[i] = static_cast<float>(x);
  }
  return quantiles;
}

class NormalRows : public TensorRows {
 public:
  NormalRows(uint64_t seed, DType dtype, int64_t columns)
      : TensorRows(dtype, columns), seed_(seed) {
    static const std::vector<float> quantiles = NormalQuantiles();
    const float deviation = 1.0f / std::sqrt(static_cast<float>(columns));
    codes_.resize(kQuantiles);
    for (int i = 0; i < kQuantiles; ++i) {
      const float w = quantiles[i] * deviation;
      codes_[i] = dtype == DType::kF16 ? FloatToFp16(w) : FloatToBf16(w);
    }
  }

  const void* Row(int64_t index, void* scratch) const override {
    auto* out = static_cast<uint16_t*>(scratch);
    uint64_t state = seed_ ^ static_cast<uint64_t>(index) * 0xd1342543de82ef95u;
    int64_t i = 0;
    for (; i + 4 <= columns_; i += 4) {
      const uint64_t bits = NextRandom(state);
      out[i] = codes_[bits & 0xffff];
      out[i + 1] = codes_[bits >> 16 & 0xffff];
      out[i + 2] = codes_[bits >> 32 & 0xffff];
      out[i + 3] = codes_[bits >> 48];
    }
    for (; i < columns_; ++i) {
      out[i] = codes_[NextRandom(state) & 0xffff];
    }
    return out;
  }

 private:
  uint64_t seed_;
  std::vector<uint16_t> codes_;
};

class ConstantRows : public TensorRows {
 public:
  ConstantRows(float value, int64_t columns)
      : TensorRows(DType::kF16, columns), code_(FloatToFp16(value)) {}

  const void* Row(int64_t, void* scratch) const override {
    auto* out = static_cast<uint16_t*>(scratch);
    std::fill(out, out + columns_, code_);
    return out;
  }

 private:
  uint16_t code_;
};

}  // namespace

CheckpointSource::CheckpointSource(Checkpoint checkpoint, QuantizationConfig quantization)
    : checkpoint_(std::move(checkpoint)), quantization_(std::move(quantization)) {
  const auto any = [this](std::string_view prefix) {
    const auto entries = checkpoint_.entries();
    return std::any_of(entries.begin(), entries.end(), [prefix](const TensorEntry& entry) {
      return entry.name.starts_with(prefix);
    });
  };
  is_base_model_ = any("layers.0.") && !any("model.");
}

const TensorEntry* CheckpointSource::Find(std::string_view name) const {
  constexpr std::string_view kPrefix = "model.";
  if (is_base_model_ && name.starts_with(kPrefix)) {
    name.remove_prefix(kPrefix.size());
  }
  return checkpoint_.Find(name);
}

std::unique_ptr<TensorRows> CheckpointSource::Open(const std::string& name,
                                                   const std::vector<int64_t>& shape) {
  const TensorEntry* entry = Find(name);
  if (entry == nullptr && FindPlane(name, "weight_upper") != nullptr) {
    return OpenNested12(name, shape);
  }
  Check(entry != nullptr, ErrorCode::kNotFound, checkpoint_.name(), ": tensor ", name,
        " is missing, expected shape ", ShapeText(shape), checkpoint_.WhereMissing(name));
  Check(entry->shape == shape, ErrorCode::kInvalidFile, checkpoint_.name(), ": tensor ", name,
        " has shape ", ShapeText(entry->shape), ", expected ", ShapeText(shape),
        " from config.json");
  const bool is_double = entry->dtype == DType::kF64;
  Check(
      entry->foreign_dtype.empty() && (is_double || entry->dtype == DType::kF32 ||
                                       entry->dtype == DType::kF16 || entry->dtype == DType::kBF16),
      ErrorCode::kUnsupported, checkpoint_.name(), ": tensor ", name, " has dtype ",
      entry->foreign_dtype.empty() ? DTypeName(entry->dtype) : entry->foreign_dtype,
      ", expected F64, F32, F16 or BF16");
  used_.insert(entry->name);
  if (is_double) {
    return std::make_unique<DoubleRows>(checkpoint_.Read(*entry));
  }
  return OpenRows(*entry);
}

std::unique_ptr<TensorRows> CheckpointSource::OpenRows(const TensorEntry& entry) {
  return std::make_unique<CheckpointRows>(checkpoint_.Read(entry));
}

const TensorEntry* CheckpointSource::FindPlane(std::string_view name,
                                               std::string_view plane) const {
  constexpr std::string_view kSuffix = "weight";
  if (!name.ends_with(".weight")) {
    return nullptr;
  }
  name.remove_suffix(kSuffix.size());
  return Find(StrCat(name, plane));
}

TensorData CheckpointSource::ReadPlane(const std::string& name, std::string_view plane, DType dtype,
                                       const std::vector<int64_t>& shape) {
  const TensorEntry* entry = FindPlane(name, plane);
  Check(entry != nullptr, ErrorCode::kNotFound, checkpoint_.name(), ": tensor ", name,
        " is stored as nested12, but its ", plane, " is missing");
  const auto same = [](int64_t found, int64_t expected) {
    return expected < 0 || found == expected;
  };
  Check(entry->foreign_dtype.empty() && entry->dtype == dtype &&
            std::equal(entry->shape.begin(), entry->shape.end(), shape.begin(), shape.end(), same),
        ErrorCode::kInvalidFile, checkpoint_.name(), ": tensor ", entry->name, " is ",
        entry->foreign_dtype.empty() ? DTypeName(entry->dtype) : entry->foreign_dtype,
        ShapeText(entry->shape), ", expected ", DTypeName(dtype), ShapeText(shape));
  used_.insert(entry->name);
  return checkpoint_.Read(*entry);
}

std::unique_ptr<TensorRows> CheckpointSource::OpenNested12(const std::string& name,
                                                           const std::vector<int64_t>& shape) {
  Check(shape.size() == 2, ErrorCode::kInvalidFile, checkpoint_.name(), ": tensor ", name,
        " is stored as nested12, which holds matrices, expected shape ", ShapeText(shape));
  TensorData index = ReadPlane(name, "remainder_index", DType::kI64, {-1});
  const int64_t remainders = index.view().shape[0];
  auto rows = std::make_unique<Nested12Rows>(
      ReadPlane(name, "weight_upper", DType::kF8E4M3, shape),
      ReadPlane(name, "weight_nibble", DType::kU8, {shape[0], NibbleBytes(shape[1])}),
      ReadPlane(name, "weight_shift", DType::kI8, {shape[0]}), std::move(index),
      ReadPlane(name, "remainder_value", DType::kF32, {remainders}));
  if (!checked_.contains(name)) {
    ThreadPool threads(1);
    CheckNested12(threads, StrCat(checkpoint_.name(), ": tensor ", name), rows->planes(),
                  rows->remainders());
    checked_.insert(name);
  }
  return rows;
}

std::vector<std::string> CheckpointSource::Unused() const {
  std::vector<std::string> unused;
  for (const TensorEntry& entry : checkpoint_.entries()) {
    if (!used_.contains(entry.name) && !IsDerived(entry.name)) {
      unused.push_back(StrCat(entry.name, " ", ShapeText(entry.shape)));
    }
  }
  return unused;
}

bool DummySource::Has(std::string_view name) const {
  // Checkpoints of linear layers one by one, as most are published; no optional extras, and a tied
  // table once.
  return !name.ends_with("qkv_proj.weight") && !name.ends_with("gate_up_proj.weight") &&
         !name.ends_with("_scale") && name != "lm_head.weight";
}

std::unique_ptr<TensorRows> DummySource::Open(const std::string& name,
                                              const std::vector<int64_t>& shape) {
  if (name.ends_with(".bias")) {
    return std::make_unique<ConstantRows>(0.0f, shape.back());
  }
  if (shape.size() == 1) {
    return std::make_unique<ConstantRows>(1.0f, shape.back());
  }
  return std::make_unique<NormalRows>(seed_ * 0x9e3779b97f4a7c15u ^ Hash(name), dtype_,
                                      shape.back());
}

}  // namespace dualfp
