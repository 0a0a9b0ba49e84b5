#include "dualfp/tensor/dtype.h"

#include <array>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

struct DTypeRow {
  DType dtype;
  int64_t size;
  std::string_view name;
};

constexpr std::array kDTypes = {
    DTypeRow{DType::kBool, 1, "BOOL"},      DTypeRow{DType::kU8, 1, "U8"},
    DTypeRow{DType::kI8, 1, "I8"},          DTypeRow{DType::kU16, 2, "U16"},
    DTypeRow{DType::kI16, 2, "I16"},        DTypeRow{DType::kU32, 4, "U32"},
    DTypeRow{DType::kI32, 4, "I32"},        DTypeRow{DType::kU64, 8, "U64"},
    DTypeRow{DType::kI64, 8, "I64"},        DTypeRow{DType::kF16, 2, "F16"},
    DTypeRow{DType::kBF16, 2, "BF16"},      DTypeRow{DType::kF32, 4, "F32"},
    DTypeRow{DType::kF64, 8, "F64"},        DTypeRow{DType::kF8E4M3, 1, "F8_E4M3"},
    DTypeRow{DType::kF8E5M2, 1, "F8_E5M2"}, DTypeRow{DType::kF8E8M0, 1, "F8_E8M0"},
};

const DTypeRow& Row(DType dtype) {
  const auto index = static_cast<size_t>(dtype);
  CheckInternal(index < kDTypes.size() && kDTypes[index].dtype == dtype, "unknown dtype ", index);
  return kDTypes[index];
}

}  // namespace

int64_t DTypeSize(DType dtype) { return Row(dtype).size; }

std::string_view DTypeName(DType dtype) { return Row(dtype).name; }

std::optional<DType> ParseDType(std::string_view name) {
  for (const DTypeRow& row : kDTypes) {
    if (row.name == name) {
      return row.dtype;
    }
  }
  return std::nullopt;
}

}  // namespace dualfp
