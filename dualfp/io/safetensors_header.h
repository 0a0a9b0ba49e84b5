// The header of a safetensors file: what it may say, checked.

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/tensor/dtype.h"

namespace dualfp {

// Headers above this are refused, as by the reference implementation.
constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// The format sets no limit; numpy and torch stop at 64 dimensions too.
constexpr size_t kMaxSafetensorsRank = 64;

struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::string foreign_dtype;   // one of the format's that dualfp does not have, else empty
  std::vector<int64_t> shape;  // any rank; [] is a scalar, and dimensions may be 0
  int file = 0;                // index into Checkpoint::files(); 0 in a single file
  uint64_t offset = 0;         // of the first byte, from the start of the file
  uint64_t num_bytes = 0;
};

struct SafetensorsHeader {
  std::vector<TensorEntry> entries;  // by offset
  std::map<std::string, std::string> metadata;
};

// Tensors of dtypes that dualfp does not have are listed, and refused when they are read. Checks
// everything: JSON and its shape, dtypes, sizes, that the tensors cover the file to its last
// byte without hole or overlap, and that names are unique. Memory stays within a few times the
// header's size. Errors as in safetensors.h.
SafetensorsHeader ParseSafetensorsHeader(std::span<const std::byte> file, std::string_view origin);

// Product of the shape times the element size; throws kInvalidFile, naming file and tensor, when a
// dimension is negative or the product of the nonzero dimensions does not fit in 63 bits.
uint64_t CheckedTensorBytes(DType dtype, std::span<const int64_t> shape, std::string_view origin,
                            std::string_view tensor_name);

// Indices into `entries`, sorted by name. Throws kInvalidFile when two names are equal.
std::vector<uint32_t> IndexByName(std::span<const TensorEntry> entries, std::string_view origin);
const TensorEntry* FindByName(std::span<const TensorEntry> entries,
                              std::span<const uint32_t> by_name, std::string_view tensor_name);

}  // namespace dualfp
