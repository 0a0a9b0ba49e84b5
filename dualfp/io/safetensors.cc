#include "dualfp/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <system_error>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"

namespace dualfp {
namespace {

// One row of the index: a tensor and the shard that shall hold it.
struct IndexRow {
  const std::string* tensor;
  const std::string* shard;
};

// The index names files; it must not name any outside its own directory, nor put control characters
// into messages.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return c >= 0x20 && c < 0x7f && c != '/' && c != '\\'; });
}

std::vector<IndexRow> ReadWeightMap(const Json& index, std::string_view origin) {
  const Json& weight_map = JsonFields(index, origin).GetObject("weight_map").json();
  std::vector<IndexRow> rows;
  rows.reserve(weight_map.size());
  for (const auto& [tensor, shard] : weight_map.get_ref<const Json::object_t&>()) {
    if (!shard.is_string()) {
      Fail(ErrorCode::kInvalidFile, origin, ": weight_map: ", QuoteForMessage(tensor),
           ": expected a file name, got ", DescribeJson(shard));
    }
    const auto& name = shard.get_ref<const std::string&>();
    if (!IsPlainFileName(name)) {
      Fail(ErrorCode::kInvalidFile, origin, ": weight_map: ", QuoteForMessage(tensor),
           ": expected the (ASCII) name of a file in the same directory, got ",
           QuoteForMessage(name));
    }
    rows.push_back({&tensor, &name});
  }
  Check(!rows.empty(), ErrorCode::kInvalidFile, origin, ": weight_map: expected tensors, is empty");
  return rows;
}

const TensorEntry& GetByName(const TensorEntry* found, std::string_view origin,
                             std::string_view tensor_name) {
  if (found == nullptr) {
    Fail(ErrorCode::kNotFound, origin, ": no tensor ", QuoteForMessage(tensor_name));
  }
  return *found;
}

bool Exists(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

}  // namespace

TensorData::~TensorData() {
  if (mapping_ != nullptr) {
    mapping_->DontNeed(offset_, static_cast<size_t>(view_.num_bytes()));
  }
}

SafetensorsFile::SafetensorsFile(std::span<const std::byte> bytes, std::string_view name)
    : name_(name), bytes_(bytes) {
  SafetensorsHeader header = ParseSafetensorsHeader(bytes_, name_);
  entries_ = std::move(header.entries);
  metadata_ = std::move(header.metadata);
  by_name_ = IndexByName(entries_, name_);
}

SafetensorsFile SafetensorsFile::Open(const std::filesystem::path& path) {
  auto mapping = std::make_shared<const MmapFile>(path);
  SafetensorsFile file(mapping->bytes(), path.string());
  mapping->Sequential();
  file.mapping_ = std::move(mapping);
  return file;
}

SafetensorsFile SafetensorsFile::FromMemory(std::span<const std::byte> bytes,
                                            std::string_view origin) {
  return SafetensorsFile(bytes, origin);
}

const TensorEntry* SafetensorsFile::Find(std::string_view tensor_name) const {
  return FindByName(entries_, by_name_, tensor_name);
}

const TensorEntry& SafetensorsFile::Get(std::string_view tensor_name) const {
  return GetByName(Find(tensor_name), name_, tensor_name);
}

TensorData SafetensorsFile::Read(const TensorEntry& entry) const {
  if (entry.shape.size() > kMaxRank) {
    Fail(ErrorCode::kUnsupported, name_, ": tensor ", QuoteForMessage(entry.name), ": ",
         entry.shape.size(), " dimensions, dualfp reads at most ", kMaxRank);
  }
  CheckInternal(entry.offset <= bytes_.size() && entry.num_bytes <= bytes_.size() - entry.offset,
                "entry of another file");
  const std::byte* data = bytes_.data() + entry.offset;
  const auto element_size = static_cast<size_t>(DTypeSize(entry.dtype));
  if (reinterpret_cast<uintptr_t>(data) % element_size == 0 || entry.num_bytes == 0) {
    return TensorData(ConstTensorView(data, entry.dtype, entry.shape), mapping_, entry.offset);
  }
  Buffer copy = Buffer::AllocateCpu(entry.num_bytes);
  std::memcpy(copy.data(), data, entry.num_bytes);
  if (mapping_ != nullptr) {
    mapping_->DontNeed(entry.offset, entry.num_bytes);
  }
  const ConstTensorView view(copy.data(), entry.dtype, entry.shape);
  return TensorData(view, std::move(copy));
}

void SafetensorsFile::Prefetch(const TensorEntry& entry) const {
  if (mapping_ != nullptr) {
    mapping_->WillNeed(entry.offset, entry.num_bytes);
  }
}

Checkpoint Checkpoint::Open(const std::filesystem::path& path) {
  Checkpoint checkpoint;
  checkpoint.name_ = path.string();
  std::error_code error;
  const bool is_directory = std::filesystem::is_directory(path, error);
  const std::filesystem::path index_path = path / kIndexName;
  if (!is_directory) {
    checkpoint.files_.push_back(SafetensorsFile::Open(path));
  } else if (Exists(path / kFileName)) {
    checkpoint.files_.push_back(SafetensorsFile::Open(path / kFileName));
  } else if (Exists(index_path)) {
    checkpoint.OpenShards(path, index_path);
  } else {
    Fail(ErrorCode::kNotFound, checkpoint.name_, ": no checkpoint here, expected ", kFileName,
         " or ", kIndexName);
  }
  for (size_t i = 0; i < checkpoint.files_.size(); ++i) {
    for (const TensorEntry& entry : checkpoint.files_[i].entries()) {
      checkpoint.entries_.push_back(entry);
      checkpoint.entries_.back().file = static_cast<int>(i);
    }
  }
  checkpoint.by_name_ = IndexByName(checkpoint.entries_, checkpoint.name_);
  return checkpoint;
}

void Checkpoint::OpenShards(const std::filesystem::path& directory,
                            const std::filesystem::path& index_path) {
  const std::string origin = index_path.string();
  const Json index = ParseJsonFile(index_path, {.duplicate_keys = DuplicateKeys::kReject});
  // Shards in the order of their names, which is that of the model in all published checkpoints.
  std::map<std::string_view, size_t> expected_tensors;
  const std::vector<IndexRow> rows = ReadWeightMap(index, origin);
  for (const IndexRow& row : rows) {
    ++expected_tensors[*row.shard];
  }
  std::map<std::string_view, const SafetensorsFile*> shards;
  files_.reserve(expected_tensors.size());
  for (const auto& [name, count] : expected_tensors) {
    const std::filesystem::path shard_path = directory / name;
    if (!Exists(shard_path)) {
      Fail(ErrorCode::kNotFound, shard_path.string(), ": missing, though ", origin, " names it");
    }
    files_.push_back(SafetensorsFile::Open(shard_path));
    shards[name] = &files_.back();
  }
  for (const IndexRow& row : rows) {
    const SafetensorsFile& shard = *shards[*row.shard];
    if (shard.Find(*row.tensor) == nullptr) {
      Fail(ErrorCode::kInvalidFile, shard.name(), ": no tensor ", QuoteForMessage(*row.tensor),
           ", though ", origin, " says it is here");
    }
  }
  // Every row has its tensor; a shard with more tensors than rows holds one that no row names.
  for (const auto& [name, count] : expected_tensors) {
    const SafetensorsFile& shard = *shards[name];
    if (shard.entries().size() == count) {
      continue;
    }
    std::vector<std::string_view> listed;
    for (const IndexRow& row : rows) {
      if (*row.shard == name) {
        listed.push_back(*row.tensor);
      }
    }
    std::sort(listed.begin(), listed.end());
    for (const TensorEntry& entry : shard.entries()) {
      const std::string_view name_in_shard = entry.name;
      if (!std::binary_search(listed.begin(), listed.end(), name_in_shard)) {
        Fail(ErrorCode::kInvalidFile, shard.name(), ": tensor ", QuoteForMessage(entry.name),
             " is not listed for this file in ", origin);
      }
    }
  }
}

uint64_t Checkpoint::total_bytes() const {
  uint64_t total = 0;
  for (const TensorEntry& entry : entries_) {
    total += entry.num_bytes;
  }
  return total;
}

const TensorEntry* Checkpoint::Find(std::string_view tensor_name) const {
  return FindByName(entries_, by_name_, tensor_name);
}

const TensorEntry& Checkpoint::Get(std::string_view tensor_name) const {
  return GetByName(Find(tensor_name), name_, tensor_name);
}

}  // namespace dualfp
