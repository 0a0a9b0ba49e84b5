#include "dualfp/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <system_error>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/io/json.h"

namespace dualfp {
namespace {

// The index names files; it must not name any outside its own directory, nor put control characters
// into messages.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return c >= 0x20 && c < 0x7f && c != '/' && c != '\\'; });
}

// Tensor to file name.
std::map<std::string, std::string, std::less<>> ReadWeightMap(const Json& index,
                                                              std::string_view origin) {
  const Json& weight_map = JsonFields(index, origin).GetObject("weight_map").json();
  std::map<std::string, std::string, std::less<>> listed;
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
    listed[tensor] = name;
  }
  Check(!listed.empty(), ErrorCode::kInvalidFile, origin,
        ": weight_map: expected tensors, is empty");
  return listed;
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

void TensorData::DropFront(int64_t num_bytes) const {
  if (mapping_ != nullptr) {
    mapping_->DontNeed(offset_, static_cast<size_t>(num_bytes));
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
  if (!entry.foreign_dtype.empty()) {
    Fail(ErrorCode::kUnsupported, name_, ": tensor ", QuoteForMessage(entry.name),
         ": dtype: unsupported element type ", QuoteForMessage(entry.foreign_dtype));
  }
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
  checkpoint.AddEntries();
  return checkpoint;
}

void Checkpoint::OpenShards(const std::filesystem::path& directory,
                            const std::filesystem::path& index_path) {
  const std::string origin = index_path.string();
  listed_ =
      ReadWeightMap(ParseJsonFile(index_path, {.duplicate_keys = DuplicateKeys::kReject}), origin);
  // In the order of their names, which is that of the model in all published checkpoints.
  std::set<std::string_view> names;
  for (const auto& [tensor, file] : listed_) {
    names.insert(file);
  }
  std::string absent;
  for (const std::string_view name : names) {
    const std::filesystem::path path = directory / name;
    if (Exists(path)) {
      files_.push_back(SafetensorsFile::Open(path));
    } else {
      absent += StrCat(absent.empty() ? "" : ", ", name);
      missing_files_.emplace_back(name);
    }
  }
  Check(!files_.empty(), ErrorCode::kNotFound, (directory / *names.begin()).string(),
        ": missing, though ", origin, " names it");
  if (!absent.empty()) {
    LogWarning(StrCat(origin, " names files that are missing: ", absent));
  }
}

void Checkpoint::AddEntries() {
  const auto file_name = [this](size_t file) {
    return std::filesystem::path(files_[file].name()).filename().string();
  };
  std::map<std::string, const SafetensorsFile*, std::less<>> by_file_name;
  for (size_t i = 0; i < files_.size(); ++i) {
    by_file_name[file_name(i)] = &files_[i];
  }
  size_t unlisted = 0;
  for (size_t i = 0; i < files_.size(); ++i) {
    const std::string name = file_name(i);
    for (const TensorEntry& entry : files_[i].entries()) {
      const auto row = listed_.find(entry.name);
      if (row == listed_.end() || row->second != name) {
        unlisted += listed_.empty() ? 0 : 1;
        const auto other =
            row == listed_.end() ? by_file_name.end() : by_file_name.find(row->second);
        if (other != by_file_name.end() && other->second->Find(entry.name) != nullptr) {
          continue;
        }
      }
      entries_.push_back(entry);
      entries_.back().file = static_cast<int>(i);
    }
  }
  by_name_ = IndexByName(entries_, name_);
  const auto lost = std::count_if(listed_.begin(), listed_.end(),
                                  [this](const auto& row) { return Find(row.first) == nullptr; });
  if (unlisted > 0 || lost > 0) {
    LogWarning(StrCat(name_, ": ", kIndexName, " does not describe the files: ", unlisted,
                      " tensors are where it does not list them, and ", lost,
                      " that it lists are nowhere"));
  }
}

std::string Checkpoint::WhereMissing(std::string_view tensor_name) const {
  const auto row = listed_.find(tensor_name);
  return row == listed_.end()
             ? ""
             : StrCat(" (", kIndexName, " says that ", QuoteForMessage(row->second), " has it)");
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
