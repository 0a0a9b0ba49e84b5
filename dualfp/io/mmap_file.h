// A file mapped read-only into memory.

#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace dualfp {

// Pages are read on first touch and can be dropped again, so a mapped checkpoint costs memory only
// where it is being read. As with any mapping, a file that another process shortens while it is
// mapped raises SIGBUS on access; replacing it by rename is safe.
class MmapFile {
 public:
  MmapFile() = default;
  // Throws kNotFound, kInvalidFile (a directory, a device, an empty file) or kIo (no permission).
  explicit MmapFile(const std::filesystem::path& path);
  ~MmapFile();
  MmapFile(MmapFile&& other) noexcept;
  MmapFile& operator=(MmapFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

  // Hints; a range may start and end anywhere inside the file, and an ignored hint is no error.
  // Tells the kernel to start reading the pages that hold the range.
  void WillNeed(size_t offset, size_t size) const;
  // Tells it to read ahead generously and forget quickly.
  void Sequential() const;
  // Releases this process's share of the pages that lie wholly inside the range; touching them
  // again re-reads them from the page cache or the disk.
  void DontNeed(size_t offset, size_t size) const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace dualfp
