#include "dualfp/io/mmap_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/file_internal.h"

namespace dualfp {
namespace {

size_t PageSize() {
  static const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
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
  // A mapping begins on a page, so that offsets are aligned where addresses are.
  const size_t first = offset & ~(PageSize() - 1);
  madvise(const_cast<std::byte*>(data_) + first, offset + size - first, MADV_WILLNEED);
}

void MmapFile::Sequential() const {
  if (size_ > 0) {
    madvise(const_cast<std::byte*>(data_), size_, MADV_SEQUENTIAL);
  }
}

void MmapFile::DontNeed(size_t offset, size_t size) const {
  CheckInternal(offset <= size_ && size <= size_ - offset, "range outside a mapped file");
  const size_t first = (offset + PageSize() - 1) & ~(PageSize() - 1);
  // The page in which the file ends belongs to its last range alone.
  const size_t end = offset + size == size_ ? size_ + PageSize() - 1 : offset + size;
  const size_t last = end & ~(PageSize() - 1);
  if (first < last) {
    madvise(const_cast<std::byte*>(data_) + first, last - first, MADV_DONTNEED);
  }
}

}  // namespace dualfp
