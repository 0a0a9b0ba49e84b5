#include "dualfp/io/safetensors_layout.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <set>
#include <string_view>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"
#include "dualfp/io/safetensors.h"

namespace dualfp {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr size_t kDataAlignment = 8;

// The bytes of a declared tensor; a bad shape is the caller's fault here, not a file's.
uint64_t DeclaredBytes(const TensorSpec& spec, const std::string& origin) {
  try {
    return CheckedTensorBytes(spec.dtype, spec.shape, origin, spec.name);
  } catch (const Error& error) {
    throw Error(ErrorCode::kInvalidArgument, error.what());
  }
}

// Eight bytes of length, the header, and blanks up to a multiple of 8.
std::string EncodeHeader(const nlohmann::ordered_json& header, const std::string& origin) {
  std::string json;
  try {
    json = header.dump();
  } catch (const nlohmann::json::type_error&) {
    Fail(ErrorCode::kInvalidArgument, origin, ": tensor names and metadata must be valid UTF-8");
  }
  json.resize((json.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment, ' ');
  Check(json.size() <= kMaxSafetensorsHeaderBytes, ErrorCode::kInvalidArgument, origin,
        ": a header of ", json.size(), " bytes is more than the ", kMaxSafetensorsHeaderBytes,
        " that readers accept");
  std::string encoded;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    encoded += static_cast<char>(json.size() >> (8 * i) & 0xff);
  }
  return encoded + json;
}

std::string ShardName(size_t index, size_t count) {
  std::array<char, 64> name;
  std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name.data();
}

std::string IndexJson(const std::vector<ShardSpec>& shards, uint64_t total_bytes) {
  std::map<std::string, std::string> file_of;
  for (const ShardSpec& shard : shards) {
    for (const TensorSpec& spec : shard.tensors) {
      file_of[spec.name] = shard.file_name;
    }
  }
  // Filled through the vector beneath: the ordered object would search all keys for each new one.
  Json::object_t members;
  std::vector<Json::object_t::value_type>& weight_map = members;
  weight_map.reserve(file_of.size());
  for (const auto& [name, file] : file_of) {
    weight_map.emplace_back(name, file);
  }
  Json index;
  index["metadata"]["total_size"] = total_bytes;
  index["weight_map"] = Json(std::move(members));
  return index.dump(2) + "\n";
}

}  // namespace

SafetensorsMetadata DefaultSafetensorsMetadata() { return {{"format", "pt"}}; }

SafetensorsLayout LayOutSafetensors(std::vector<TensorSpec> tensors,
                                    const SafetensorsMetadata& metadata,
                                    const std::string& origin) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return DTypeSize(a.dtype) > DTypeSize(b.dtype);
  });
  // Filled through the vector beneath: the ordered object would search all keys for each new one.
  Json::object_t members;
  std::vector<Json::object_t::value_type>& header = members;
  header.reserve(tensors.size() + 1);
  if (!metadata.empty()) {
    header.emplace_back("__metadata__", Json(metadata));
  }
  SafetensorsLayout layout;
  std::set<std::string> names;
  uint64_t data_bytes = 0;
  for (TensorSpec& spec : tensors) {
    const uint64_t num_bytes = DeclaredBytes(spec, origin);
    header.emplace_back(spec.name, Json{{"dtype", DTypeName(spec.dtype)},
                                        {"shape", spec.shape},
                                        {"data_offsets", {data_bytes, data_bytes + num_bytes}}});
    Check(spec.name != "__metadata__" && names.insert(spec.name).second,
          ErrorCode::kInvalidArgument, origin, ": tensor name ", QuoteForMessage(spec.name),
          " is taken");
    layout.tensors.push_back({std::move(spec), data_bytes, num_bytes});
    Check(!__builtin_add_overflow(data_bytes, num_bytes, &data_bytes) && data_bytes < INT64_MAX,
          ErrorCode::kInvalidArgument, origin, ": the tensors' sizes overflow 63 bits");
  }
  layout.header = EncodeHeader(Json(std::move(members)), origin);
  for (TensorPlace& place : layout.tensors) {
    place.offset += layout.header.size();
  }
  layout.file_bytes = layout.header.size() + data_bytes;
  return layout;
}

DealtTensors DealTensors(std::vector<TensorSpec> tensors, uint64_t max_shard_bytes,
                         const std::string& origin) {
  DealtTensors dealt;
  dealt.shards.emplace_back();
  std::set<std::string> names;
  uint64_t shard_bytes = 0;
  uint64_t total_bytes = 0;
  for (TensorSpec& spec : tensors) {
    const uint64_t num_bytes = DeclaredBytes(spec, origin);
    if (shard_bytes > 0 && num_bytes > max_shard_bytes - std::min(shard_bytes, max_shard_bytes)) {
      dealt.shards.emplace_back();
      shard_bytes = 0;
    }
    Check(names.insert(spec.name).second, ErrorCode::kInvalidArgument, origin, ": tensor name ",
          QuoteForMessage(spec.name), " is taken");
    dealt.shards.back().tensors.push_back(std::move(spec));
    shard_bytes += num_bytes;
    total_bytes += num_bytes;
  }
  const size_t count = dealt.shards.size();
  for (size_t i = 0; i < count; ++i) {
    dealt.shards[i].file_name =
        count == 1 ? std::string(Checkpoint::kFileName) : ShardName(i, count);
  }
  if (count > 1) {
    dealt.index = IndexJson(dealt.shards, total_bytes);
  }
  return dealt;
}

}  // namespace dualfp
