#include "dualfp/io/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/file_internal.h"

namespace dualfp {
namespace {

// Linux transfers at most 2 GiB - 4 KiB a call anyway.
constexpr size_t kMaxTransfer = size_t{1} << 30;

constexpr int kMaxTemporaryNames = 1000;

void SyncDirectoryOf(const std::filesystem::path& path) {
  std::filesystem::path directory = path.parent_path();
  if (directory.empty()) {
    directory = ".";
  }
  const FileDescriptor descriptor(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some filesystems cannot sync a directory and say EINVAL; the rename is then all there is.
  if (descriptor.get() < 0 || (fsync(descriptor.get()) != 0 && errno != EINVAL)) {
    FailErrno(errno, directory, "cannot sync the directory");
  }
}

void ReserveBytes(int descriptor, const std::filesystem::path& path, uint64_t size) {
  if (size == 0) {
    return;
  }
  int result = 0;
  do {
    result = fallocate(descriptor, 0, 0, static_cast<off_t>(size));
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno != EOPNOTSUPP && errno != ENOSYS) {
    FailErrno(errno, path, StrCat("cannot reserve ", size, " bytes"));
  }
}

void WriteBytes(int descriptor, const std::filesystem::path& path, uint64_t offset,
                const void* data, size_t size) {
  const char* position = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t count =
        pwrite(descriptor, position, std::min(size, kMaxTransfer), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      FailErrno(errno, path, "cannot write");
    }
    position += count;
    offset += static_cast<uint64_t>(count);
    size -= static_cast<size_t>(count);
  }
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (descriptor_ >= 0) {
    close(descriptor_);
  }
}

void FailErrno(int error, const std::filesystem::path& path, std::string_view what) {
  ErrorCode code = ErrorCode::kIo;
  switch (error) {
    case ENOENT:
      code = ErrorCode::kNotFound;
      break;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      code = ErrorCode::kResourceExhausted;
      break;
    default:
      break;
  }
  Fail(code, path.string(), ": ", what, ": ", std::generic_category().message(error));
}

FileDescriptor OpenRegularFile(const std::filesystem::path& path, int64_t* size) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer.
  FileDescriptor descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (descriptor.get() < 0) {
    FailErrno(errno, path, "cannot open");
  }
  struct stat status;
  if (fstat(descriptor.get(), &status) != 0) {
    FailErrno(errno, path, "cannot stat");
  }
  Check(!S_ISDIR(status.st_mode), ErrorCode::kInvalidFile, path.string(),
        ": expected a file, is a directory");
  Check(S_ISREG(status.st_mode), ErrorCode::kInvalidFile, path.string(),
        ": expected a regular file");
  *size = status.st_size;
  return descriptor;
}

std::string ReadFile(const std::filesystem::path& path, int64_t max_bytes) {
  int64_t size = 0;
  const FileDescriptor descriptor = OpenRegularFile(path, &size);
  Check(size <= max_bytes, ErrorCode::kInvalidFile, path.string(), ": ", size,
        " bytes, expected at most ", max_bytes);
  std::string content(static_cast<size_t>(size), '\0');
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t count = read(descriptor.get(), content.data() + done,
                               std::min(content.size() - done, kMaxTransfer));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      FailErrno(errno, path, "cannot read");
    }
    if (count == 0) {
      break;  // shortened since fstat
    }
    done += static_cast<size_t>(count);
  }
  content.resize(done);
  return content;
}

WritableFile::WritableFile(std::filesystem::path path)
    : path_(std::move(path)), descriptor_(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) {
    FailErrno(errno, path_, "cannot open for writing");
  }
}

WritableFile::WritableFile(WritableFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

WritableFile::~WritableFile() {
  if (descriptor_ >= 0) {
    close(descriptor_);
  }
}

uint64_t WritableFile::size() const {
  struct stat status;
  if (fstat(descriptor_, &status) != 0) {
    FailErrno(errno, path_, "cannot stat");
  }
  return static_cast<uint64_t>(status.st_size);
}

void WritableFile::Reserve(uint64_t size) {
  ReserveBytes(descriptor_, path_, size);
  if (this->size() < size) {  // where nothing can be reserved
    Truncate(size);
  }
}

void WritableFile::WriteAt(uint64_t offset, const void* data, size_t size) {
  WriteBytes(descriptor_, path_, offset, data, size);
}

void WritableFile::Truncate(uint64_t size) {
  if (ftruncate(descriptor_, static_cast<off_t>(size)) != 0) {
    FailErrno(errno, path_, "cannot truncate");
  }
}

void WritableFile::Sync() {
  if (fdatasync(descriptor_) != 0) {
    FailErrno(errno, path_, "cannot write");
  }
}

bool WritableFile::TryLock() { return flock(descriptor_, LOCK_EX | LOCK_NB) == 0; }

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  // Not mkstemp, whose files are private to the user; the umask shall decide.
  for (int attempt = 0; descriptor_ < 0; ++attempt) {
    temporary_path_ = StrCat(path_.string(), ".tmp.", getpid(), ".", attempt);
    descriptor_ = open(temporary_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && (errno != EEXIST || attempt == kMaxTemporaryNames)) {
      FailErrno(errno, path_, "cannot create a temporary file beside it");
    }
  }
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_path_(std::exchange(other.temporary_path_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) {
    close(descriptor_);
  }
  if (!temporary_path_.empty()) {
    unlink(temporary_path_.c_str());
  }
}

void AtomicFile::Reserve(uint64_t size) {
  CheckInternal(descriptor_ >= 0, path_.string(), ": reserve after finish");
  ReserveBytes(descriptor_, path_, size);
}

void AtomicFile::WriteAt(uint64_t offset, const void* data, size_t size) {
  CheckInternal(descriptor_ >= 0, path_.string(), ": write after finish");
  WriteBytes(descriptor_, path_, offset, data, size);
}

void AtomicFile::Finish() {
  if (descriptor_ < 0) {
    return;
  }
  if (fsync(descriptor_) != 0) {
    FailErrno(errno, path_, "cannot write");
  }
  if (close(std::exchange(descriptor_, -1)) != 0) {
    FailErrno(errno, path_, "cannot write");
  }
}

void AtomicFile::Commit() {
  Finish();
  if (rename(temporary_path_.c_str(), path_.c_str()) != 0) {
    FailErrno(errno, path_, "cannot rename a temporary file to it");
  }
  temporary_path_.clear();
  SyncDirectoryOf(path_);
}

void WriteFileAtomically(const std::filesystem::path& path, std::string_view content) {
  AtomicFile file(path);
  file.WriteAt(0, content.data(), content.size());
  file.Commit();
}

void RemoveFile(const std::filesystem::path& path) {
  if (unlink(path.c_str()) == 0) {
    SyncDirectoryOf(path);
  } else if (errno != ENOENT) {
    FailErrno(errno, path, "cannot remove");
  }
}

void RenameAndSync(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (rename(from.c_str(), to.c_str()) != 0) {
    FailErrno(errno, from, StrCat("cannot rename to ", to.string()));
  }
  SyncDirectoryOf(to);
}

}  // namespace dualfp
