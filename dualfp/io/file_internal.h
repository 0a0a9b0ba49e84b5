// What the readers and writers of this folder share about file descriptors.

#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <utility>

namespace dualfp {

class FileDescriptor {
 public:
  explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&&) = delete;

  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

// Throws "PATH: WHAT: <the system's message>": kNotFound for ENOENT, kResourceExhausted for a full
// disk, quota, size limit or descriptor table, else kIo.
[[noreturn]] void FailErrno(int error, const std::filesystem::path& path, std::string_view what);

// Opens for reading; directories, devices and pipes are kInvalidFile.
FileDescriptor OpenRegularFile(const std::filesystem::path& path, int64_t* size);

}  // namespace dualfp
