#include "dualfp/io/safetensors_writer.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <system_error>
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

}  // namespace

SafetensorsMetadata DefaultSafetensorsMetadata() { return {{"format", "pt"}}; }

SafetensorsFileWriter::SafetensorsFileWriter(std::filesystem::path path,
                                             std::vector<TensorSpec> tensors,
                                             const SafetensorsMetadata& metadata)
    : file_(std::move(path)) {
  const std::string origin = file_.path().string();
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
  uint64_t data_bytes = 0;
  for (TensorSpec& spec : tensors) {
    const uint64_t num_bytes = DeclaredBytes(spec, origin);
    header.emplace_back(spec.name, Json{{"dtype", DTypeName(spec.dtype)},
                                        {"shape", spec.shape},
                                        {"data_offsets", {data_bytes, data_bytes + num_bytes}}});
    std::string name = spec.name;
    Check(name != "__metadata__" &&
              slots_.emplace(name, Slot{std::move(spec), data_bytes, num_bytes, 0}).second,
          ErrorCode::kInvalidArgument, origin, ": tensor name ", QuoteForMessage(name),
          " is taken");
    Check(!__builtin_add_overflow(data_bytes, num_bytes, &data_bytes) && data_bytes < INT64_MAX,
          ErrorCode::kInvalidArgument, origin, ": the tensors' sizes overflow 63 bits");
  }
  const std::string encoded = EncodeHeader(Json(std::move(members)), origin);
  for (auto& [name, slot] : slots_) {
    slot.offset += encoded.size();
  }
  missing_bytes_ = data_bytes;
  file_.Reserve(encoded.size() + data_bytes);
  file_.WriteAt(0, encoded.data(), encoded.size());
}

SafetensorsFileWriter::Slot& SafetensorsFileWriter::FindSlot(std::string_view tensor_name) {
  const auto found = slots_.find(tensor_name);
  if (found == slots_.end()) {
    Fail(ErrorCode::kInvalidArgument, path().string(), ": tensor ", QuoteForMessage(tensor_name),
         " was not declared");
  }
  return found->second;
}

void SafetensorsFileWriter::Append(std::string_view tensor_name, const void* data, uint64_t size) {
  Slot& slot = FindSlot(tensor_name);
  if (size == 0) {
    return;  // an empty tensor may come after the last byte, when the file is closed
  }
  Check(size <= slot.num_bytes - slot.written, ErrorCode::kInvalidArgument, path().string(),
        ": tensor ", QuoteForMessage(slot.spec.name), ": ", slot.written + size, " bytes written, ",
        slot.num_bytes, " declared");
  file_.WriteAt(slot.offset + slot.written, data, size);
  slot.written += size;
  missing_bytes_ -= size;
}

void SafetensorsFileWriter::Write(std::string_view tensor_name, const ConstTensorView& view) {
  const Slot& slot = FindSlot(tensor_name);
  const TensorSpec& spec = slot.spec;
  Check(view.dtype == spec.dtype && view.device == Device{} && view.is_contiguous() &&
            std::equal(spec.shape.begin(), spec.shape.end(), view.shape.begin(),
                       view.shape.begin() + view.rank),
        ErrorCode::kInvalidArgument, path().string(), ": tensor ", QuoteForMessage(spec.name), ": ",
        Describe(view), " written, but another dtype or shape declared");
  Append(tensor_name, view.data, static_cast<uint64_t>(view.num_bytes()));
}

void SafetensorsFileWriter::Finish() {
  for (const auto& [name, slot] : slots_) {
    Check(slot.written == slot.num_bytes, ErrorCode::kInvalidArgument, path().string(), ": tensor ",
          QuoteForMessage(name), ": ", slot.written, " bytes written, ", slot.num_bytes,
          " declared");
  }
  file_.Finish();
}

void SafetensorsFileWriter::Commit() {
  Finish();
  file_.Commit();
}

CheckpointWriter::CheckpointWriter(std::filesystem::path directory, std::vector<TensorSpec> tensors,
                                   uint64_t max_shard_bytes, SafetensorsMetadata metadata)
    : directory_(std::move(directory)), metadata_(std::move(metadata)) {
  std::error_code error;
  created_directory_ = std::filesystem::create_directories(directory_, error);
  Check(!error, ErrorCode::kIo, directory_.string(),
        ": cannot create the directory: ", error.message());
  shards_.emplace_back();
  uint64_t shard_bytes = 0;
  for (TensorSpec& spec : tensors) {
    const uint64_t num_bytes = DeclaredBytes(spec, directory_.string());
    if (shard_bytes > 0 && num_bytes > max_shard_bytes - std::min(shard_bytes, max_shard_bytes)) {
      shards_.emplace_back();
      shard_bytes = 0;
    }
    Check(shard_of_.emplace(spec.name, shards_.size() - 1).second, ErrorCode::kInvalidArgument,
          directory_.string(), ": tensor name ", QuoteForMessage(spec.name), " is taken");
    shards_.back().tensors.push_back(std::move(spec));
    shard_bytes += num_bytes;
    total_bytes_ += num_bytes;
  }
  for (size_t i = 0; i < shards_.size(); ++i) {
    shards_[i].file_name =
        shards_.size() == 1 ? std::string(Checkpoint::kFileName) : ShardName(i, shards_.size());
  }
}

CheckpointWriter::~CheckpointWriter() {
  if (created_directory_ && !committed_) {
    shards_.clear();
    std::error_code ignored;
    std::filesystem::remove(directory_, ignored);  // only if nothing else has come to lie in it
  }
}

void CheckpointWriter::Begin(Shard& shard) {
  shard.writer.emplace(directory_ / shard.file_name, std::move(shard.tensors), metadata_);
}

SafetensorsFileWriter& CheckpointWriter::WriterOf(std::string_view tensor_name) {
  const auto found = shard_of_.find(tensor_name);
  if (found == shard_of_.end()) {
    Fail(ErrorCode::kInvalidArgument, directory_.string(), ": tensor ",
         QuoteForMessage(tensor_name), " was not declared");
  }
  Shard& shard = shards_[found->second];
  if (!shard.writer) {
    Begin(shard);
  }
  return *shard.writer;
}

void CheckpointWriter::Append(std::string_view tensor_name, const void* data, uint64_t size) {
  SafetensorsFileWriter& writer = WriterOf(tensor_name);
  writer.Append(tensor_name, data, size);
  if (writer.is_complete()) {
    writer.Finish();  // closes it: a hundred shards need not be open at once
  }
}

void CheckpointWriter::Write(std::string_view tensor_name, const ConstTensorView& view) {
  SafetensorsFileWriter& writer = WriterOf(tensor_name);
  writer.Write(tensor_name, view);
  if (writer.is_complete()) {
    writer.Finish();
  }
}

std::string CheckpointWriter::IndexJson() const {
  Json::object_t members;
  std::vector<Json::object_t::value_type>& weight_map = members;
  weight_map.reserve(shard_of_.size());
  for (const auto& [name, shard] : shard_of_) {
    weight_map.emplace_back(name, shards_[shard].file_name);
  }
  Json index;
  index["metadata"]["total_size"] = total_bytes_;
  index["weight_map"] = Json(std::move(members));
  return index.dump(2) + "\n";
}

void CheckpointWriter::Commit() {
  for (Shard& shard : shards_) {
    if (!shard.writer) {
      Begin(shard);  // a shard without a byte: no tensors, or only empty ones
    }
    shard.writer->Finish();
  }
  committed_ = true;
  const std::filesystem::path index_path = directory_ / Checkpoint::kIndexName;
  if (shards_.size() == 1) {
    shards_[0].writer->Commit();
    RemoveFile(index_path);  // of an older checkpoint; readers prefer the single file anyway
    return;
  }
  AtomicFile index(index_path);
  const std::string content = IndexJson();
  index.WriteAt(0, content.data(), content.size());
  index.Finish();
  RemoveFile(index_path);
  RemoveFile(directory_ / Checkpoint::kFileName);
  for (Shard& shard : shards_) {
    shard.writer->Commit();
  }
  index.Commit();
}

}  // namespace dualfp
