#include "dualfp/quant/conversion/partial_checkpoint.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/safetensors.h"

namespace dualfp {
namespace {

constexpr std::string_view kSuffix = ".dualfp-partial";
constexpr std::string_view kJournal = "journal";
constexpr int64_t kMaxJournalBytes = int64_t{1} << 30;
// What a kill may cost: this much is written anew.
constexpr uint64_t kSyncBytes = uint64_t{256} << 20;

uint64_t Hash(std::string_view text, uint64_t hash) {
  for (const char c : text) {
    hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;  // FNV-1a
  }
  return hash;
}

bool IsEmptyDirectory(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error) && std::filesystem::is_empty(path, error);
}

}  // namespace

void CheckNotThere(const std::filesystem::path& out) {
  std::error_code error;
  Check(!std::filesystem::exists(out, error) || IsEmptyDirectory(out), ErrorCode::kInvalidArgument,
        out.string(), ": exists already and is not an empty directory");
}

PartialCheckpoint::PartialCheckpoint(std::filesystem::path out, const std::vector<Task>& tasks,
                                     const std::string& identity, uint64_t max_shard_bytes)
    : out_(std::move(out)), num_tasks_(tasks.size()) {
  if (!out_.has_filename()) {  // "out/"
    out_ = out_.parent_path();
  }
  std::error_code error;
  CheckNotThere(out_);
  directory_ = out_.string() + std::string(kSuffix);
  std::vector<TensorSpec> specs;
  for (const Task& task : tasks) {
    specs.insert(specs.end(), task.outputs.begin(), task.outputs.end());
  }
  DealtTensors dealt = DealTensors(std::move(specs), max_shard_bytes, out_.string());
  index_ = std::move(dealt.index);
  uint64_t hash = Hash(identity, 0xcbf29ce484222325u);
  for (ShardSpec& spec : dealt.shards) {
    Shard shard;
    shard.file_name = spec.file_name;
    shard.layout =
        LayOutSafetensors(std::move(spec.tensors), DefaultSafetensorsMetadata(), spec.file_name);
    hash = Hash(shard.layout.header, Hash(shard.file_name, hash));
    for (const TensorPlace& place : shard.layout.tensors) {
      places_[place.spec.name] = {shards_.size(), place.offset, place.num_bytes};
    }
    shards_.push_back(std::move(shard));
  }

  std::filesystem::create_directories(directory_, error);
  Check(!error, ErrorCode::kIo, directory_.string(),
        ": cannot create the directory: ", error.message());
  journal_ = std::make_unique<WritableFile>(directory_ / kJournal);
  Check(journal_->TryLock(), ErrorCode::kInvalidArgument, directory_.string(),
        ": another process is writing this checkpoint");
  ReadJournal(StrCat("dualfp checkpoint 1 ", hash, "\n"));
  try {
    OpenShards();
  } catch (const Error&) {  // a full disk: nothing is gained by keeping what was reserved
    if (done_.empty()) {
      Discard();
    }
    throw;
  }
}

void PartialCheckpoint::ReadJournal(const std::string& first_line) {
  const std::string text = ReadFile(journal_->path(), kMaxJournalBytes);
  bool same = text.starts_with(first_line);
  size_t begin = first_line.size();
  for (size_t end = 0; same && (end = text.find('\n', begin)) != std::string::npos;
       begin = end + 1) {
    size_t task = 0;
    const auto result = std::from_chars(text.data() + begin, text.data() + end, task);
    same = result.ptr == text.data() + end && task < num_tasks_;
    done_.insert(task);
  }
  if (!done_.empty()) {
    for (const Shard& shard : shards_) {
      std::error_code error;
      const auto size = std::filesystem::file_size(directory_ / shard.file_name, error);
      same = same && !error && size == shard.layout.file_bytes;
    }
  }
  if (same) {
    journal_bytes_ = begin;  // an interrupted last line is overwritten
    journal_->Truncate(begin);
    return;
  }
  done_.clear();
  Clear();
  journal_->Truncate(0);
  journal_->WriteAt(0, first_line.data(), first_line.size());
  journal_bytes_ = first_line.size();
}

void PartialCheckpoint::Clear() {
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(directory_, error)) {
    if (file.path().filename() != kJournal) {
      std::filesystem::remove(file.path(), error);
    }
  }
}

void PartialCheckpoint::OpenShards() {
  for (Shard& shard : shards_) {
    shard.file = std::make_unique<WritableFile>(directory_ / shard.file_name);
    shard.file->Reserve(shard.layout.file_bytes);
    shard.file->WriteAt(0, shard.layout.header.data(), shard.layout.header.size());
    shard.dirty = true;
  }
}

void PartialCheckpoint::WriteAt(std::string_view tensor, uint64_t offset, const void* data,
                                uint64_t size) {
  const auto found = places_.find(tensor);
  CheckInternal(found != places_.end(), "tensor ", tensor, " was not declared");
  const Place& place = found->second;
  CheckInternal(offset <= place.num_bytes && size <= place.num_bytes - offset, "tensor ", tensor,
                " has ", place.num_bytes, " bytes");
  {
    const std::lock_guard lock(mutex_);
    shards_[place.shard].dirty = true;
    unsynced_bytes_ += size;
  }
  shards_[place.shard].file->WriteAt(place.offset + offset, data, size);
}

void PartialCheckpoint::Finish(size_t task) {
  const std::lock_guard lock(mutex_);
  finished_.push_back(task);
  if (unsynced_bytes_ >= kSyncBytes) {
    FlushJournal();
  }
}

void PartialCheckpoint::Save() {
  const std::lock_guard lock(mutex_);
  FlushJournal();
}

void PartialCheckpoint::FlushJournal() {
  for (Shard& shard : shards_) {
    if (shard.dirty) {
      shard.file->Sync();
      shard.dirty = false;
    }
  }
  std::string lines;
  for (const size_t task : finished_) {
    lines += StrCat(task, "\n");
  }
  journal_->WriteAt(journal_bytes_, lines.data(), lines.size());
  journal_bytes_ += lines.size();
  finished_.clear();
  unsynced_bytes_ = 0;
}

void PartialCheckpoint::Publish() {
  Save();
  if (!index_.empty()) {
    WriteFileAtomically(directory_ / Checkpoint::kIndexName, index_);
  }
  RemoveFile(directory_ / kJournal);
  RenameAndSync(directory_, out_);
}

void PartialCheckpoint::Discard() {
  for (Shard& shard : shards_) {
    shard.file.reset();
  }
  Clear();
  std::error_code ignored;
  std::filesystem::remove(directory_ / kJournal, ignored);
  std::filesystem::remove(directory_, ignored);
}

}  // namespace dualfp
