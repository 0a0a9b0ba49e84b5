// Writing safetensors files and sharded checkpoints.
//
// Tensors are declared first, so that the headers are known, and their bytes may then arrive in any
// order and in pieces: a converter needs no more memory than its current tensor. Nothing is visible
// under its final name before Commit(); a writer that is destroyed without it, by an error for
// example, leaves the directory as it was. Errors of the system are kResourceExhausted (disk full,
// file size limit) or kIo; declarations that contradict themselves are kInvalidArgument.

#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/io/file.h"
#include "dualfp/io/safetensors_layout.h"
#include "dualfp/tensor/tensor_view.h"

namespace dualfp {

// One file, laid out as safetensors_layout.h says.
class SafetensorsFileWriter {
 public:
  SafetensorsFileWriter(std::filesystem::path path, std::vector<TensorSpec> tensors,
                        const SafetensorsMetadata& metadata = DefaultSafetensorsMetadata());

  const std::filesystem::path& path() const { return file_.path(); }

  // The next bytes of this tensor.
  void Append(std::string_view tensor_name, const void* data, uint64_t size);
  // All of a tensor at once; dtype and shape must be those declared, and the view contiguous.
  void Write(std::string_view tensor_name, const ConstTensorView& view);

  // Whether every declared byte has arrived.
  bool is_complete() const { return missing_bytes_ == 0; }
  // Flushes a complete file to the disk under its temporary name.
  void Finish();
  // Finish() if not yet done, then gives the file its name.
  void Commit();

 private:
  struct Slot {
    TensorPlace place;
    uint64_t written;
  };

  Slot& FindSlot(std::string_view tensor_name);

  AtomicFile file_;
  std::map<std::string, Slot, std::less<>> slots_;
  uint64_t missing_bytes_ = 0;
};

// A directory with model.safetensors, or with shards and an index, as DealTensors() says.
class CheckpointWriter {
 public:
  // Creates the directory if need be.
  CheckpointWriter(std::filesystem::path directory, std::vector<TensorSpec> tensors,
                   uint64_t max_shard_bytes = kDefaultMaxShardBytes,
                   SafetensorsMetadata metadata = DefaultSafetensorsMetadata());
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  void Append(std::string_view tensor_name, const void* data, uint64_t size);
  void Write(std::string_view tensor_name, const ConstTensorView& view);

  // Gives all files their names. Over an older checkpoint in the same directory: one file replaces
  // one file atomically; with shards, the old index and model.safetensors go first and the new
  // index comes last, so that an interruption leaves no checkpoint rather than a mixed one. Older
  // shards of other names stay, unused.
  void Commit();

 private:
  struct Shard {
    std::string file_name;
    std::vector<TensorSpec> tensors;              // until the file is begun
    std::optional<SafetensorsFileWriter> writer;  // begun at its first byte
  };

  // The shard's writer, begun if need be.
  SafetensorsFileWriter& WriterOf(std::string_view tensor_name);
  void Begin(Shard& shard);
  std::filesystem::path directory_;
  SafetensorsMetadata metadata_;
  std::vector<Shard> shards_;
  std::map<std::string, size_t, std::less<>> shard_of_;
  std::string index_;  // empty for a single file
  bool created_directory_ = false;
  bool committed_ = false;
};

}  // namespace dualfp
