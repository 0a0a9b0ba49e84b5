#include "dualfp/tensor/buffer.h"

#include <sys/mman.h>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    Reset();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    device_ = other.device_;
    deleter_ = std::exchange(other.deleter_, nullptr);
  }
  return *this;
}

Buffer Buffer::AllocateCpu(size_t size) {
  if (size == 0) {
    return Buffer();
  }
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  Check(data != MAP_FAILED, ErrorCode::kResourceExhausted, "out of memory: cannot allocate ", size,
        " bytes");
  if (size >= kHugePage) {
    madvise(data, size, MADV_HUGEPAGE);
  }
  return Buffer(data, size, Device{}, [](void* pointer, size_t bytes) { munmap(pointer, bytes); });
}

TensorView Buffer::View(DType dtype, std::initializer_list<int64_t> shape,
                        size_t byte_offset) const {
  TensorView view(static_cast<char*>(data_) + byte_offset, dtype, shape, device_);
  CheckInternal(byte_offset + static_cast<size_t>(view.num_bytes()) <= size_, "view ",
                Describe(view), " at byte ", byte_offset, " overruns a buffer of ", size_,
                " bytes");
  return view;
}

void Buffer::Reset() {
  if (data_ != nullptr && deleter_) {
    deleter_(data_, size_);
  }
  data_ = nullptr;
  size_ = 0;
}

}  // namespace dualfp
