// Reading safetensors files (https://huggingface.co/docs/safetensors, "Format"): eight bytes of
// header length, a JSON header, then the tensors' bytes without holes.
//
// The header is checked completely before a file counts as open, so later accesses cannot fail on
// its content. Errors are kInvalidFile (broken), kUnsupported (valid, but a dtype dualfp has none
// for), kNotFound (no such file or tensor) or kIo, and name the file and the tensor or field.
// All const members are thread-safe.

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dualfp/io/mmap_file.h"
#include "dualfp/io/safetensors_header.h"
#include "dualfp/tensor/buffer.h"
#include "dualfp/tensor/tensor_view.h"

namespace dualfp {

// A tensor's bytes, held for reading. The view is contiguous, aligned to its element size, and
// valid while this object lives, even without the file it came from. Bytes that lie aligned in the
// file (those of all files that safetensors libraries write) are viewed in place; others are
// copied. On destruction the mapped pages are given back, so that a loader which holds one
// TensorData at a time never has more than one source tensor in memory.
class TensorData {
 public:
  // In place; `mapping` is nullptr for memory that the caller keeps.
  TensorData(ConstTensorView view, std::shared_ptr<const MmapFile> mapping, uint64_t offset)
      : view_(view), mapping_(std::move(mapping)), offset_(offset) {}
  // In a copy.
  TensorData(ConstTensorView view, Buffer copy) : view_(view), copy_(std::move(copy)) {}
  ~TensorData();
  TensorData(TensorData&& other) = default;
  TensorData& operator=(TensorData&&) = delete;

  const ConstTensorView& view() const { return view_; }

  // Gives back the pages of the first `num_bytes`, which have been read for good: a reader of a
  // very large tensor then holds a part of it at a time.
  void DropFront(int64_t num_bytes) const;

 private:
  ConstTensorView view_;
  std::shared_ptr<const MmapFile> mapping_;
  uint64_t offset_ = 0;
  Buffer copy_;
};

class SafetensorsFile {
 public:
  static SafetensorsFile Open(const std::filesystem::path& path);
  // The bytes must outlive the result and what it reads; `origin` is what errors call them.
  static SafetensorsFile FromMemory(std::span<const std::byte> bytes, std::string_view origin);

  // The path or origin.
  const std::string& name() const { return name_; }
  std::span<const TensorEntry> entries() const { return entries_; }  // by offset
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  const TensorEntry* Find(std::string_view tensor_name) const;  // nullptr when absent
  const TensorEntry& Get(std::string_view tensor_name) const;   // throws kNotFound

  // `entry` is one of entries(). Throws kUnsupported for more than kMaxRank dimensions and for
  // dtypes that dualfp does not have.
  TensorData Read(const TensorEntry& entry) const;
  // Asks the kernel to start reading the tensor from the disk.
  void Prefetch(const TensorEntry& entry) const;

 private:
  SafetensorsFile(std::span<const std::byte> bytes, std::string_view name);

  std::string name_;
  std::span<const std::byte> bytes_;
  std::shared_ptr<const MmapFile> mapping_;  // nullptr for FromMemory
  std::vector<TensorEntry> entries_;
  std::map<std::string, std::string> metadata_;
  std::vector<uint32_t> by_name_;  // indices into entries_, sorted by name
};

// A model's tensors: one model.safetensors, or the shards of a model.safetensors.index.json.
// Where a directory has both, the single file counts, as in transformers.
class Checkpoint {
 public:
  static constexpr std::string_view kFileName = "model.safetensors";
  static constexpr std::string_view kIndexName = "model.safetensors.index.json";

  // A directory, or one .safetensors file. Of a directory with an index, every file that the index
  // names and that is there is opened, and all tensors in it count, as in transformers. Where index
  // and files disagree (absent files, tensors that are elsewhere or not listed) there is a warning;
  // a tensor that two files hold is the one in the file that the index says. Files must lie in the
  // directory itself.
  static Checkpoint Open(const std::filesystem::path& path);

  // The directory or file.
  const std::string& name() const { return name_; }
  std::span<const SafetensorsFile> files() const { return files_; }
  std::span<const TensorEntry> entries() const { return entries_; }  // by file, then by offset
  uint64_t total_bytes() const;                                      // of all tensors

  const TensorEntry* Find(std::string_view tensor_name) const;
  const TensorEntry& Get(std::string_view tensor_name) const;  // throws kNotFound
  // Files that the index names and that are not there.
  const std::vector<std::string>& missing_files() const { return missing_files_; }
  // Where the index says that an absent tensor is: " (INDEX says that FILE has it)";
  // else empty.
  std::string WhereMissing(std::string_view tensor_name) const;

  TensorData Read(const TensorEntry& entry) const { return files_[entry.file].Read(entry); }
  TensorData Read(std::string_view tensor_name) const { return Read(Get(tensor_name)); }
  void Prefetch(const TensorEntry& entry) const { files_[entry.file].Prefetch(entry); }

 private:
  Checkpoint() = default;
  void OpenShards(const std::filesystem::path& directory, const std::filesystem::path& index_path);
  void AddEntries();

  std::string name_;
  std::vector<SafetensorsFile> files_;
  std::vector<std::string> missing_files_;
  std::map<std::string, std::string, std::less<>> listed_;  // the index: tensor to file name
  std::vector<TensorEntry> entries_;
  std::vector<uint32_t> by_name_;
};

}  // namespace dualfp
