// A checkpoint under construction that survives a kill: files of their final size in a directory of
// their own, and a journal of which tasks are done. The real directory appears at once, complete.

#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/io/file.h"
#include "dualfp/io/safetensors_layout.h"

namespace dualfp {

// Throws kInvalidArgument where `out` exists and is not an empty directory.
void CheckNotThere(const std::filesystem::path& out);

class PartialCheckpoint {
 public:
  // What one task writes.
  struct Task {
    std::vector<TensorSpec> outputs;
  };

  // Begins OUT.dualfp-partial beside `out`, or goes on with what an interrupted run for the same
  // tasks and `identity` (one line of text: sources and options) left there; anything else in it is
  // removed. Throws kInvalidArgument where `out` exists and is not an empty directory or another
  // process is writing it, kResourceExhausted or kIo as the system says.
  PartialCheckpoint(std::filesystem::path out, const std::vector<Task>& tasks,
                    const std::string& identity, uint64_t max_shard_bytes);

  // Of an earlier run.
  bool IsDone(size_t task) const { return done_.contains(task); }

  // The next three may be called by several threads.
  // Bytes [offset, offset + size) of a tensor.
  void WriteAt(std::string_view tensor, uint64_t offset, const void* data, uint64_t size);
  // All of the task's bytes have been written. They are on the disk before the journal says so.
  void Finish(size_t task);

  // Where files beside the tensors go until Publish().
  const std::filesystem::path& directory() const { return directory_; }

  // Puts what is finished on record, for the next run.
  void Save();

  // Every task is done: writes the index, syncs everything and gives the directory its name.
  void Publish();

  // Removes all of it.
  void Discard();

 private:
  struct Shard {
    std::string file_name;
    SafetensorsLayout layout;
    std::unique_ptr<WritableFile> file;
    bool dirty = false;  // written since it was synced
  };
  struct Place {
    size_t shard = 0;
    uint64_t offset = 0;
    uint64_t num_bytes = 0;
  };

  void ReadJournal(const std::string& first_line);
  void Clear();
  void OpenShards();
  void FlushJournal();

  std::filesystem::path out_;
  std::filesystem::path directory_;
  std::vector<Shard> shards_;
  std::map<std::string, Place, std::less<>> places_;
  std::string index_;  // empty for a single file
  std::set<size_t> done_;
  size_t num_tasks_ = 0;
  std::mutex mutex_;
  std::unique_ptr<WritableFile> journal_;
  uint64_t journal_bytes_ = 0;
  std::vector<size_t> finished_;  // not yet in the journal
  uint64_t unsynced_bytes_ = 0;
};

}  // namespace dualfp
