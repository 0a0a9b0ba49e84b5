// Owned memory on a device. The allocator comes from whoever knows the device (kernels/ for CUDA),
// so this header needs no GPU toolkit.

#pragma once

#include <cstddef>
#include <functional>
#include <utility>

#include "dualfp/tensor/tensor_view.h"

namespace dualfp {

class Buffer {
 public:
  using Deleter = std::function<void(void* data, size_t size)>;

  Buffer() = default;
  Buffer(void* data, size_t size, Device device, Deleter deleter)
      : data_(data), size_(size), device_(device), deleter_(std::move(deleter)) {}
  ~Buffer() { Reset(); }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  // CPU memory, zero-filled lazily by the operating system, aligned to 64 bytes; allocations of
  // 2 MiB and more ask for huge pages, which halves the TLB cost of streaming a weight.
  // Throws kResourceExhausted when there is not enough.
  static Buffer AllocateCpu(size_t size);

  void* data() const { return data_; }
  size_t size() const { return size_; }
  Device device() const { return device_; }

  // A contiguous view at a byte offset; throws kInternal when it would not fit.
  TensorView View(DType dtype, std::initializer_list<int64_t> shape, size_t byte_offset = 0) const;

  void Reset();

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
  Device device_;
  Deleter deleter_;
};

}  // namespace dualfp
