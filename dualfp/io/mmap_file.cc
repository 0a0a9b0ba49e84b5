#include "dualfp/io/mmap_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/file_internal.h"

namespace dualfp {
namespace {

uintptr_t PageSize() {
  static const auto size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  return size;
}

}  // namespace

MmapFile::MmapFile(const std::filesystem::path& path) {
  int64_t size = 0;
  const FileDescriptor descriptor = OpenRegularFile(path, &size);
  Check(size > 0, ErrorCode::kInvalidFile, path.string(), ": the file is empty");
  void* data = mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_SHARED, descriptor.get(), 0);
  if (data == MAP_FAILED) {
    FailErrno(errno, path, "cannot map into memory");
  }
  data_ = static_cast<const std::byte*>(data);
  size_ = static_cast<size_t>(size);
}

MmapFile::~MmapFile() {
  if (data_ != nullptr) {
    munmap(const_cast<std::byte*>(data_), size_);
  }
}

MmapFile::MmapFile(MmapFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MmapFile& MmapFile::operator=(MmapFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MmapFile::WillNeed(size_t offset, size_t size) const {
  CheckInternal(offset <= size_ && size <= size_ - offset, "range outside a mapped file");
  if (size == 0) {
    return;
  }
  const auto begin = reinterpret_cast<uintptr_t>(data_ + offset);
  const uintptr_t first_page = begin & ~(PageSize() - 1);
  madvise(reinterpret_cast<void*>(first_page), begin + size - first_page, MADV_WILLNEED);
}

void MmapFile::Sequential() const {
  if (size_ > 0) {
    madvise(const_cast<std::byte*>(data_), size_, MADV_SEQUENTIAL);
  }
}

void MmapFile::DontNeed(size_t offset, size_t size) const {
  CheckInternal(offset <= size_ && size <= size_ - offset, "range outside a mapped file");
  const auto begin = reinterpret_cast<uintptr_t>(data_ + offset);
  const uintptr_t first_page = (begin + PageSize() - 1) & ~(PageSize() - 1);
  // The page in which the file ends belongs to its last range alone.
  const uintptr_t end = offset + size == size_ ? begin + size + PageSize() - 1 : begin + size;
  const uintptr_t last_page = end & ~(PageSize() - 1);
  if (first_page < last_page) {
    madvise(reinterpret_cast<void*>(first_page), last_page - first_page, MADV_DONTNEED);
  }
}

}  // namespace dualfp
