#include "dualfp/io/safetensors_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"
#include "dualfp/io/json_internal.h"

namespace dualfp {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr std::string_view kMetadataKey = "__metadata__";

// In the format, but nothing that dualfp computes with, and the bits of an element.
struct ForeignDType {
  std::string_view name;
  int64_t bits;
};
constexpr std::array kForeignDTypes = {
    ForeignDType{"F4", 4},          ForeignDType{"F6_E2M3", 6},     ForeignDType{"F6_E3M2", 6},
    ForeignDType{"F8_E4M3FNUZ", 8}, ForeignDType{"F8_E5M2FNUZ", 8}, ForeignDType{"C64", 64}};

// Walks
//   {"NAME": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}, ...,
//    "__metadata__": {"KEY": "VALUE", ...}}
// event by event, without building a document: whatever does not fit is refused where it stands,
// so neither depth nor size of foreign content costs anything.
class HeaderHandler : public JsonHandler {
 public:
  HeaderHandler(std::string_view text, std::string_view origin)
      : JsonHandler(text, origin, kLengthBytes) {}

  SafetensorsHeader Take() { return std::move(header_); }

  bool null() { return FailValue("null"); }
  bool boolean(bool) { return FailValue("a boolean"); }
  bool number_float(double, const std::string& text) { return FailValue(text); }
  // Called for negative numbers only.
  bool number_integer(int64_t value) { return FailValue(std::to_string(value)); }

  bool number_unsigned(uint64_t value) {
    if (place_ == Place::kShape) {
      if (entry_.shape.size() == kMaxSafetensorsRank) {
        FailTensor(StrCat("more than ", kMaxSafetensorsRank, " dimensions"));
      }
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return FailValue(std::to_string(value));
      }
      entry_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::kOffsets && num_offsets_ < offsets_.size()) {
      offsets_[num_offsets_++] = value;
      return true;
    }
    return FailValue(std::to_string(value));
  }

  bool string(std::string& value) {
    if (place_ == Place::kMetadata) {
      const bool is_new = header_.metadata.emplace(key_, std::move(value)).second;
      if (!is_new) {
        FailHere(StrCat("__metadata__: duplicate key ", QuoteForMessage(key_)));
      }
      return true;
    }
    if (place_ == Place::kTensor && key_ == "dtype") {
      SetDType(value);
      return true;
    }
    return FailValue(QuoteForMessage(value));
  }

  bool start_object(size_t) {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kTop;
        return true;
      case Place::kTop:
        place_ = key_ == kMetadataKey ? Place::kMetadata : Place::kTensor;
        entry_ = TensorEntry{};
        entry_.name = key_;
        has_dtype_ = has_shape_ = has_offsets_ = false;
        if (place_ == Place::kMetadata && std::exchange(has_metadata_, true)) {
          FailHere("duplicate key \"__metadata__\"");
        }
        return true;
      default:
        return FailValue("an object");
    }
  }

  bool end_object() {
    if (place_ == Place::kTensor) {
      FinishTensor();
    }
    place_ = place_ == Place::kTop ? Place::kStart : Place::kTop;
    return true;
  }

  bool start_array(size_t) {
    if (place_ == Place::kTensor && key_ == "shape") {
      place_ = Place::kShape;
      return true;
    }
    if (place_ == Place::kTensor && key_ == "data_offsets") {
      place_ = Place::kOffsets;
      num_offsets_ = 0;
      return true;
    }
    return FailValue("an array");
  }

  bool end_array() {
    if (place_ == Place::kOffsets && num_offsets_ != offsets_.size()) {
      FailTensor(StrCat("data_offsets: expected 2 numbers, got ", num_offsets_));
    }
    place_ = Place::kTensor;
    return true;
  }

  bool key(std::string& name) {
    key_ = std::move(name);
    if (place_ == Place::kTensor) {
      bool* seen = key_ == "dtype"          ? &has_dtype_
                   : key_ == "shape"        ? &has_shape_
                   : key_ == "data_offsets" ? &has_offsets_
                                            : nullptr;
      if (seen == nullptr) {
        FailTensor(StrCat("unknown field ", QuoteForMessage(key_),
                          ", expected dtype, shape and data_offsets"));
      }
      if (std::exchange(*seen, true)) {
        FailTensor(StrCat("duplicate field ", key_));
      }
    }
    return true;
  }

 private:
  enum class Place { kStart, kTop, kMetadata, kTensor, kShape, kOffsets };

  void SetDType(const std::string& name) {
    if (const std::optional<DType> dtype = ParseDType(name)) {
      entry_.dtype = *dtype;
      return;
    }
    for (const ForeignDType& foreign : kForeignDTypes) {
      if (foreign.name == name) {
        entry_.dtype = DType::kU8;
        entry_.foreign_dtype = name;
        foreign_bits_ = foreign.bits;
        return;
      }
    }
    FailTensor(StrCat("dtype: unknown element type ", QuoteForMessage(name)));
  }

  void FinishTensor() {
    if (!has_dtype_ || !has_shape_ || !has_offsets_) {
      FailTensor(StrCat("field ",
                        !has_dtype_   ? "dtype"
                        : !has_shape_ ? "shape"
                                      : "data_offsets",
                        " is missing"));
    }
    const auto [begin, end] = offsets_;
    if (begin > end) {
      FailTensor(StrCat("data_offsets: begin ", begin, " lies after end ", end));
    }
    entry_.offset = begin;
    entry_.num_bytes = end - begin;
    uint64_t expected = CheckedTensorBytes(entry_.dtype, entry_.shape, origin(), entry_.name);
    if (!entry_.foreign_dtype.empty() &&
        (__builtin_mul_overflow(expected, static_cast<uint64_t>(foreign_bits_), &expected) ||
         std::exchange(expected, expected / 8) % 8 != 0)) {
      FailTensor(StrCat("shape: no whole number of bytes of ", entry_.foreign_dtype));
    }
    if (expected != entry_.num_bytes) {
      FailTensor(StrCat("data_offsets: ", entry_.num_bytes, " bytes, but dtype and shape make ",
                        expected));
    }
    header_.entries.push_back(std::move(entry_));
  }

  // A value that has no business where it stands.
  bool FailValue(std::string_view got) {
    switch (place_) {
      case Place::kStart:
        FailHere(StrCat("header: expected an object, got ", got));
      case Place::kTop:
        FailHere(
            StrCat(key_ == kMetadataKey ? "__metadata__" : StrCat("tensor ", QuoteForMessage(key_)),
                   ": expected an object, got ", got));
      case Place::kMetadata:
        FailHere(StrCat("__metadata__: ", QuoteForMessage(key_), ": expected a string, got ", got));
      case Place::kTensor:
        FailTensor(
            StrCat(key_, ": expected ", key_ == "dtype" ? "a string" : "an array", ", got ", got));
      case Place::kShape:
        FailTensor(StrCat("shape: expected integers of at least 0, got ", got));
      case Place::kOffsets:
        FailTensor(StrCat("data_offsets: expected two integers of at least 0, got ", got));
    }
    return false;
  }

  [[noreturn]] void FailTensor(std::string_view message) const {
    FailHere(StrCat("tensor ", QuoteForMessage(entry_.name), ": ", message));
  }

  SafetensorsHeader header_;
  Place place_ = Place::kStart;
  std::string key_;
  TensorEntry entry_;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  bool has_metadata_ = false;
  std::array<uint64_t, 2> offsets_{};
  size_t num_offsets_ = 0;
  int64_t foreign_bits_ = 0;
};

// Sorts by offset, and checks that the tensors cover all data bytes exactly once.
void CheckCoverage(std::vector<TensorEntry>& entries, uint64_t data_bytes,
                   std::string_view origin) {
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.offset, a.num_bytes) < std::tie(b.offset, b.num_bytes);
  });
  uint64_t covered = 0;
  const TensorEntry* previous = nullptr;
  for (const TensorEntry& entry : entries) {
    const auto fail = [&](const auto&... parts) {
      Fail(ErrorCode::kInvalidFile, origin, ": tensor ", QuoteForMessage(entry.name),
           ": data_offsets: ", parts...);
    };
    const uint64_t end = entry.offset + entry.num_bytes;
    if (end > data_bytes) {
      fail("ends at ", end, ", but the file holds only ", data_bytes,
           " bytes of data (truncated?)");
    }
    if (entry.offset < covered) {
      fail("begins at ", entry.offset, ", inside tensor ", QuoteForMessage(previous->name),
           ", which ends at ", covered);
    }
    if (entry.offset > covered) {
      fail("begins at ", entry.offset, ", leaving a hole after byte ", covered);
    }
    covered = end;
    previous = &entry;
  }
  Check(covered == data_bytes, ErrorCode::kInvalidFile, origin, ": ", data_bytes - covered,
        " bytes at the end of the file belong to no tensor");
}

}  // namespace

SafetensorsHeader ParseSafetensorsHeader(std::span<const std::byte> file, std::string_view origin) {
  Check(file.size() >= kLengthBytes, ErrorCode::kInvalidFile, origin, ": ", file.size(),
        " bytes, too short for a safetensors file");
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {  // little-endian on any host
    length |= std::to_integer<uint64_t>(file[i]) << (8 * i);
  }
  Check(length <= kMaxSafetensorsHeaderBytes, ErrorCode::kInvalidFile, origin,
        ": header length: ", length, " bytes, expected at most ", kMaxSafetensorsHeaderBytes);
  Check(length <= file.size() - kLengthBytes, ErrorCode::kInvalidFile, origin,
        ": header length: ", length, " bytes, but the file has only ", file.size() - kLengthBytes,
        " after it (truncated?)");
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  Check(text.starts_with('{'), ErrorCode::kInvalidFile, origin,
        ": header: expected JSON that begins with {");

  const uint64_t data_begin = kLengthBytes + length;
  HeaderHandler handler(text, origin);
  RunJsonParser(handler);
  SafetensorsHeader header = handler.Take();
  CheckCoverage(header.entries, file.size() - data_begin, origin);
  for (TensorEntry& entry : header.entries) {
    entry.offset += data_begin;
  }
  return header;
}

uint64_t CheckedTensorBytes(DType dtype, std::span<const int64_t> shape, std::string_view origin,
                            std::string_view tensor_name) {
  const auto fail = [&](const auto&... parts) {
    Fail(ErrorCode::kInvalidFile, origin, ": tensor ", QuoteForMessage(tensor_name),
         ": shape: ", parts...);
  };
  // Dimensions of 0 count as 1 here: strides, too, must not overflow.
  int64_t bound = DTypeSize(dtype);
  bool is_empty = false;
  for (const int64_t dimension : shape) {
    if (dimension < 0) {
      fail("negative dimension ", dimension);
    }
    if (__builtin_mul_overflow(bound, std::max<int64_t>(dimension, 1), &bound)) {
      fail("the number of bytes overflows 63 bits");
    }
    is_empty |= dimension == 0;
  }
  return is_empty ? 0 : static_cast<uint64_t>(bound);
}

std::vector<uint32_t> IndexByName(std::span<const TensorEntry> entries, std::string_view origin) {
  std::vector<uint32_t> by_name(entries.size());
  std::iota(by_name.begin(), by_name.end(), uint32_t{0});
  std::sort(by_name.begin(), by_name.end(),
            [&](uint32_t a, uint32_t b) { return entries[a].name < entries[b].name; });
  for (size_t i = 1; i < by_name.size(); ++i) {
    if (entries[by_name[i - 1]].name == entries[by_name[i]].name) {
      Fail(ErrorCode::kInvalidFile, origin, ": duplicate tensor name ",
           QuoteForMessage(entries[by_name[i]].name));
    }
  }
  return by_name;
}

const TensorEntry* FindByName(std::span<const TensorEntry> entries,
                              std::span<const uint32_t> by_name, std::string_view tensor_name) {
  const auto found = std::lower_bound(
      by_name.begin(), by_name.end(), tensor_name,
      [&](uint32_t index, std::string_view name) { return entries[index].name < name; });
  return found != by_name.end() && entries[*found].name == tensor_name ? &entries[*found] : nullptr;
}

}  // namespace dualfp
