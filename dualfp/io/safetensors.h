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
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/io/mmap_file.h"
#include "dualfp/tensor/buffer.h"
#include "dualfp/tensor/tensor_view.h"

namespace dualfp {

// Headers above this are refused, as by the reference implementation.
constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // any rank; [] is a scalar, and dimensions may be 0
  int file = 0;                // index into Checkpoint::files(); 0 in a single file
  uint64_t offset = 0;         // of the first byte, from the start of the file
  uint64_t num_bytes = 0;
};

// A tensor's bytes, held for reading. The view is contiguous, aligned to its element size, and
// valid for as long as this object and the file it came from both live. Bytes that lie aligned in
// the file (all files written by safetensors libraries) are viewed in place; others are copied.
// On destruction the mapped pages are given back, so that a loader which holds one TensorData at a
// time never has more than one source tensor in memory.
class TensorData {
 public:
  TensorData(const MmapFile* mapping, uint64_t offset, ConstTensorView view, Buffer copy);
  ~TensorData();
  TensorData(TensorData&& other) noexcept;
  TensorData& operator=(TensorData&&) = delete;

  const ConstTensorView& view() const { return view_; }

 private:
  const MmapFile* mapping_;  // nullptr when there are no pages to give back
  uint64_t offset_;
  ConstTensorView view_;
  Buffer copy_;
};

class SafetensorsFile {
 public:
  static SafetensorsFile Open(const std::filesystem::path& path);
  // The bytes must outlive the result; `origin` is what errors call them.
  static SafetensorsFile FromMemory(std::span<const std::byte> bytes, std::string origin);

  // The path or origin.
  const std::string& name() const { return name_; }
  std::span<const TensorEntry> entries() const { return entries_; }  // by offset
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  const TensorEntry* Find(std::string_view tensor_name) const;  // nullptr when absent
  const TensorEntry& Get(std::string_view tensor_name) const;   // throws kNotFound

  // Throws kUnsupported for a tensor of more than kMaxRank dimensions.
  TensorData Read(const TensorEntry& entry) const;
  // Asks the kernel to start reading rows [begin, end) of the first axis.
  void Prefetch(const TensorEntry& entry, int64_t row_begin, int64_t row_end) const;

 private:
  SafetensorsFile() = default;
  void ParseHeader();

  std::string name_;
  MmapFile mapping_;  // empty for FromMemory
  std::span<const std::byte> bytes_;
  std::vector<TensorEntry> entries_;
  std::vector<uint32_t> by_name_;  // indices into entries_, sorted by name
  std::map<std::string, std::string> metadata_;
};

// A model's tensors: one model.safetensors, or the shards of a model.safetensors.index.json.
// Where a directory has both, the single file counts, as in transformers.
class Checkpoint {
 public:
  // A directory, or one .safetensors file. Every shard is opened and compared with the index:
  // shards must lie in the directory itself and hold exactly the tensors that the index says.
  static Checkpoint Open(const std::filesystem::path& path);

  const std::string& name() const { return name_; }
  std::span<const SafetensorsFile> files() const { return files_; }
  std::span<const TensorEntry> entries() const { return entries_; }  // by file, then by offset
  uint64_t total_bytes() const;                                      // of all tensors

  const TensorEntry* Find(std::string_view tensor_name) const;
  const TensorEntry& Get(std::string_view tensor_name) const;  // throws kNotFound

  TensorData Read(const TensorEntry& entry) const { return files_[entry.file].Read(entry); }
  TensorData Read(std::string_view tensor_name) const { return Read(Get(tensor_name)); }
  void Prefetch(const TensorEntry& entry, int64_t row_begin, int64_t row_end) const {
    files_[entry.file].Prefetch(entry, row_begin, row_end);
  }

 private:
  std::string name_;
  std::vector<SafetensorsFile> files_;
  std::vector<TensorEntry> entries_;
  std::vector<uint32_t> by_name_;
};

}  // namespace dualfp
