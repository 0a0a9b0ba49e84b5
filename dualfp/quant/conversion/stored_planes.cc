#include "dualfp/quant/conversion/stored_planes.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/base/thread_pool.h"
#include "dualfp/kernels/nest.h"
#include "dualfp/kernels/nest12.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/nested.h"

namespace dualfp {
namespace {

constexpr std::string_view kUpper = ".weight_upper";
constexpr std::array<std::string_view, 7> kOtherPlanes = {
    ".weight_lower",  ".weight_nibble",   ".weight_shift",   ".outlier_index",
    ".outlier_value", ".remainder_index", ".remainder_value"};

std::string DescribeEntry(const TensorEntry& entry) {
  std::string text =
      entry.foreign_dtype.empty() ? std::string(DTypeName(entry.dtype)) : entry.foreign_dtype;
  for (const int64_t size : entry.shape) {
    text += StrCat(" ", size);
  }
  return text;
}

TensorData ReadPlane(const Checkpoint& checkpoint, const std::string& name, DType dtype,
                     const std::vector<int64_t>& shape) {
  const TensorEntry* entry = checkpoint.Find(name);
  Check(entry != nullptr, ErrorCode::kNotFound, checkpoint.name(), ": tensor ", name,
        " is missing beside the weight's other planes");
  Check(entry->foreign_dtype.empty() && entry->dtype == dtype && entry->shape == shape,
        ErrorCode::kInvalidFile, checkpoint.name(), ": tensor ", name, " is ",
        DescribeEntry(*entry), ", expected ",
        DescribeEntry({.name = name, .dtype = dtype, .shape = shape}));
  return checkpoint.Read(*entry);
}

class PlaneRows : public TensorRows {
 public:
  explicit PlaneRows(StoredPlanes planes)
      : TensorRows(DType::kF32, planes.k), planes_(std::move(planes)) {}

  const void* Row(int64_t index, void* scratch) const override {
    auto* out = static_cast<float*>(scratch);
    if (planes_.is_nested12()) {
      FillNested12(index, out);
    } else {
      FillNested(index, out);
    }
    return out;
  }

 private:
  void FillNested12(int64_t row, float* out) const {
    std::vector<uint16_t> bf16(columns_);
    Unnest12Row({planes_.upper->view(), planes_.nibble->view(), planes_.shift->view()},
                planes_.outliers(), row, bf16.data());
    std::transform(bf16.begin(), bf16.end(), out, Bf16ToFloat);
  }

  void FillNested(int64_t row, float* out) const {
    const uint8_t* upper = planes_.upper->view().as<uint8_t>() + row * columns_;
    const uint8_t* lower = planes_.lower->view().as<uint8_t>() + row * columns_;
    for (int64_t i = 0; i < columns_; ++i) {
      out[i] = Fp16ToFloat(NestedMerge(upper[i], lower[i]));
    }
    const OutlierList outliers = planes_.outliers();
    if (outliers.size() == 0) {
      return;
    }
    const int64_t* begin = outliers.index.as<int64_t>();
    const int64_t* end = begin + outliers.size();
    for (const int64_t* it = std::lower_bound(begin, end, row * columns_);
         it != end && *it < (row + 1) * columns_; ++it) {
      out[*it - row * columns_] += outliers.value.as<float>()[it - begin];
    }
  }

  StoredPlanes planes_;
};

}  // namespace

OutlierList StoredPlanes::outliers() const {
  return index->view().shape[0] == 0 ? OutlierList{} : OutlierList{index->view(), value->view()};
}

std::optional<std::string> PlanesModule(const TensorEntry& entry) {
  if (!entry.name.ends_with(kUpper)) {
    return std::nullopt;
  }
  return entry.name.substr(0, entry.name.size() - kUpper.size());
}

bool IsOtherPlane(const Checkpoint& checkpoint, const TensorEntry& entry) {
  for (const std::string_view plane : kOtherPlanes) {
    if (entry.name.ends_with(plane)) {
      const std::string module = entry.name.substr(0, entry.name.size() - plane.size());
      return checkpoint.Find(module + std::string(kUpper)) != nullptr;
    }
  }
  return false;
}

StoredPlanes OpenPlanes(const Checkpoint& checkpoint, const std::string& module) {
  const TensorEntry& upper = checkpoint.Get(module + std::string(kUpper));
  Check(upper.shape.size() == 2 && upper.shape[0] > 0 && upper.shape[1] > 0,
        ErrorCode::kInvalidFile, checkpoint.name(), ": tensor ", upper.name, " is ",
        DescribeEntry(upper), ", expected a matrix");
  StoredPlanes planes{.module = module, .n = upper.shape[0], .k = upper.shape[1]};
  planes.upper.emplace(ReadPlane(checkpoint, upper.name, DType::kF8E4M3, upper.shape));
  const bool nested12 = checkpoint.Find(module + ".weight_nibble") != nullptr;
  const std::string apart = module + (nested12 ? ".remainder" : ".outlier");
  const TensorEntry* index = checkpoint.Find(apart + "_index");
  const std::vector<int64_t> count = {index != nullptr && index->shape.size() == 1 ? index->shape[0]
                                                                                   : 0};
  planes.index.emplace(ReadPlane(checkpoint, apart + "_index", DType::kI64, count));
  planes.value.emplace(ReadPlane(checkpoint, apart + "_value", DType::kF32, count));
  const std::string name = StrCat(checkpoint.name(), ": tensor ", module, ".weight");
  ThreadPool threads(1);
  if (nested12) {
    planes.nibble.emplace(ReadPlane(checkpoint, module + ".weight_nibble", DType::kU8,
                                    {planes.n, NibbleBytes(planes.k)}));
    planes.shift.emplace(ReadPlane(checkpoint, module + ".weight_shift", DType::kI8, {planes.n}));
    CheckNested12(threads, name,
                  {planes.upper->view(), planes.nibble->view(), planes.shift->view()},
                  planes.outliers());
  } else {
    planes.lower.emplace(ReadPlane(checkpoint, module + ".weight_lower", DType::kU8, upper.shape));
    CheckNested(threads, name, planes.upper->view(), planes.lower->view(), planes.outliers());
  }
  return planes;
}

std::unique_ptr<TensorRows> Dequantize(StoredPlanes planes) {
  return std::make_unique<PlaneRows>(std::move(planes));
}

}  // namespace dualfp
