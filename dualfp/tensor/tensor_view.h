// A tensor that somebody else owns: pointer, dtype, device, shape and strides.

#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <type_traits>

#include "dualfp/base/check.h"
#include "dualfp/tensor/dtype.h"

namespace dualfp {

enum class DeviceType : uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

constexpr int kMaxRank = 4;

// Row-major unless strides say otherwise; strides count elements. An empty view (data == nullptr)
// stands for "absent" wherever an argument is optional.
template <bool kIsConst>
struct BasicTensorView {
  using Void = std::conditional_t<kIsConst, const void, void>;

  Void* data = nullptr;
  DType dtype = DType::kF32;
  Device device;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  std::array<int64_t, kMaxRank> strides{};

  BasicTensorView() = default;

  BasicTensorView(Void* data_in, DType dtype_in, std::span<const int64_t> shape_in,
                  Device device_in = {})
      : data(data_in), dtype(dtype_in), device(device_in), rank(static_cast<int>(shape_in.size())) {
    CheckInternal(shape_in.size() <= kMaxRank, "tensor rank ", shape_in.size(), " > ", kMaxRank);
    int64_t stride = 1;
    for (int axis = rank - 1; axis >= 0; --axis) {
      shape[axis] = shape_in[axis];
      strides[axis] = stride;
      stride *= shape_in[axis];
    }
  }

  BasicTensorView(Void* data_in, DType dtype_in, std::initializer_list<int64_t> shape_in,
                  Device device_in = {})
      : BasicTensorView(data_in, dtype_in, std::span(shape_in.begin(), shape_in.size()),
                        device_in) {}

  // A mutable view is usable wherever a const one is asked for.
  operator BasicTensorView<true>() const  // NOLINT(google-explicit-constructor)
      requires(!kIsConst) {
    BasicTensorView<true> view;
    view.data = data;
    view.dtype = dtype;
    view.device = device;
    view.rank = rank;
    view.shape = shape;
    view.strides = strides;
    return view;
  }

  explicit operator bool() const { return data != nullptr; }

  int64_t num_elements() const {
    int64_t count = 1;
    for (int axis = 0; axis < rank; ++axis) {
      count *= shape[axis];
    }
    return count;
  }

  // Bytes of a contiguous tensor of this shape.
  int64_t num_bytes() const { return num_elements() * DTypeSize(dtype); }

  bool is_contiguous() const {
    int64_t stride = 1;
    for (int axis = rank - 1; axis >= 0; --axis) {
      if (shape[axis] != 1 && strides[axis] != stride) {
        return false;
      }
      stride *= shape[axis];
    }
    return true;
  }

  template <typename T>
  auto* as() const {
    using Pointer = std::conditional_t<kIsConst, const T*, T*>;
    return static_cast<Pointer>(data);
  }

  // Rows [begin, end) of the first axis.
  BasicTensorView Rows(int64_t begin, int64_t end) const {
    CheckInternal(rank >= 1 && 0 <= begin && begin <= end && end <= shape[0], "rows [", begin, ", ",
                  end, ") of a tensor with ", rank >= 1 ? shape[0] : 0);
    using Byte = std::conditional_t<kIsConst, const char, char>;
    BasicTensorView view = *this;
    view.data = static_cast<Byte*>(data) + begin * strides[0] * DTypeSize(dtype);
    view.shape[0] = end - begin;
    return view;
  }
};

using TensorView = BasicTensorView<false>;
using ConstTensorView = BasicTensorView<true>;

// "F16[4096, 14336]": for messages.
std::string Describe(const ConstTensorView& view);

}  // namespace dualfp
