// Element types of tensors, in memory and in safetensors files.

#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace dualfp {

enum class DType : uint8_t {
  kBool,
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kU64,
  kI64,
  kF16,
  kBF16,
  kF32,
  kF64,
  kF8E4M3,  // e4m3fn
  kF8E5M2,
  kF8E8M0,
};

// Bytes of one element.
int64_t DTypeSize(DType dtype);

// The name used in safetensors headers: "F16", "F8_E4M3", ...
std::string_view DTypeName(DType dtype);

// The inverse of DTypeName; nothing for a name that is not one of ours.
std::optional<DType> ParseDType(std::string_view name);

}  // namespace dualfp
