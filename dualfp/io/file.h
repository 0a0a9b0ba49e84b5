// Whole files: read with a size limit, and written so that a reader sees the old file or the new
// one, never a part of it.

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace dualfp {

// The file's bytes. Throws kNotFound when there is none, kInvalidFile for a directory or a file
// larger than max_bytes, kIo when it cannot be read.
std::string ReadFile(const std::filesystem::path& path, int64_t max_bytes);

// A file that is written in place, in any order and by several threads, and kept whatever happens.
// All failures throw kResourceExhausted (disk full, quota, file size limit) or kIo.
class WritableFile {
 public:
  // Opens the file, and creates it if need be.
  explicit WritableFile(std::filesystem::path path);
  ~WritableFile();
  WritableFile(WritableFile&& other) noexcept;
  WritableFile& operator=(WritableFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  uint64_t size() const;

  // Makes the file this large and claims the disk space where the filesystem can, so that a full
  // disk is known before the work begins.
  void Reserve(uint64_t size);
  void WriteAt(uint64_t offset, const void* data, size_t size);
  void Truncate(uint64_t size);
  // To the disk.
  void Sync();
  // Whether this object got the lock that it holds until it is destroyed, and that another process
  // may have.
  bool TryLock();

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

// A file under construction. Until Commit() it has a temporary name beside `path`, which the
// destructor removes; a killed process may leave that temporary file behind, never a broken `path`.
// All failures throw kResourceExhausted (disk full, quota, file size limit) or kIo.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }

  // Makes the file this large and claims the disk space where the filesystem can, so that a full
  // disk is known before the work begins.
  void Reserve(uint64_t size);

  void WriteAt(uint64_t offset, const void* data, size_t size);

  // Flushes to the disk and closes; only Commit() may follow. Does nothing the second time.
  void Finish();

  // Finish(), then renames over `path` and flushes the directory.
  void Commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_path_;  // empty once committed
  int descriptor_ = -1;
};

// The whole of it in one call.
void WriteFileAtomically(const std::filesystem::path& path, std::string_view content);

// Removes a file if it is there and flushes the directory.
void RemoveFile(const std::filesystem::path& path);

// Gives a file or directory another name in the same filesystem, over a file or an empty directory
// that may be there, and flushes the directory that it then lies in.
void RenameAndSync(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace dualfp
