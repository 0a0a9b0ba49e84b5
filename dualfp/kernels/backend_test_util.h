// Backends as parameters of tests, and their memory.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/device.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp {

// The backends of this machine, on every device, whose ops differ.
inline std::vector<const Backend*> BackendsWithOps() {
  std::vector<const Backend*> backends = UsableBackends(DeviceType::kCuda);
  for (const Backend* backend : UsableBackends(DeviceType::kCpu)) {
    backends.push_back(backend);
  }
  const auto same = [](const Backend* a, const Backend* b) { return a->ops == b->ops; };
  backends.erase(std::unique(backends.begin(), backends.end(), same), backends.end());
  return backends;
}

// With each dtype of hidden states that they take.
struct OpsUnderTest {
  const Backend* backend;
  DType activation;

  std::string Name() const {
    return std::string(backend->name) + "_" + std::string(DTypeName(activation));
  }
};

inline std::vector<OpsUnderTest> AllOpsUnderTest() {
  std::vector<OpsUnderTest> all;
  for (const Backend* backend : BackendsWithOps()) {
    for (const DType activation : backend->activations) {
      all.push_back({backend, activation});
    }
  }
  return all;
}

// Half a unit in the last place of 1.
inline double UnitRoundoff(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return 0x1p-11;
    case DType::kBF16:
      return 0x1p-8;
    case DType::kF8E4M3:
      return 0x1p-4;
    default:
      return 0x1p-24;
  }
}

// Half of the smallest positive number.
inline double SubnormalRoundoff(DType dtype) {
  return dtype == DType::kF16 ? 0x1p-25 : dtype == DType::kF8E4M3 ? 0x1p-10 : 0.0;
}

// What storing as `dtype` makes of a value, as bits.
inline uint32_t EncodeAs(DType dtype, float value) {
  switch (dtype) {
    case DType::kF16:
      return FloatToFp16(value);
    case DType::kBF16:
      return FloatToBf16(value);
    case DType::kF8E4M3:
      return FloatToE4m3(value);
    default: {
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof(bits));
      return bits;
    }
  }
}

inline float DecodeAs(DType dtype, uint32_t bits) {
  switch (dtype) {
    case DType::kF16:
      return Fp16ToFloat(static_cast<uint16_t>(bits));
    case DType::kBF16:
      return Bf16ToFloat(static_cast<uint16_t>(bits));
    case DType::kF8E4M3:
      return E4m3ToFloat(static_cast<uint8_t>(bits));
    default: {
      float value;
      std::memcpy(&value, &bits, sizeof(value));
      return value;
    }
  }
}

inline float RoundedAs(DType dtype, float value) { return DecodeAs(dtype, EncodeAs(dtype, value)); }

inline std::vector<float> RoundedAs(DType dtype, std::vector<float> values) {
  for (float& value : values) {
    value = RoundedAs(dtype, value);
  }
  return values;
}

// Host values in the memory of a backend's device, and back. What is put lives as long as this.
class OpsDevice {
 public:
  explicit OpsDevice(const Backend& backend, int num_threads = 3)
      : threads_(num_threads), device_{backend.device, 0}, stream_(MakeStream(device_)) {
    context_.device = device_;
    context_.threads = &threads_;
    context_.stream = stream_.get();
  }

  Context& context() { return context_; }

  template <typename T>
  TensorView Put(const std::vector<T>& values, DType dtype, std::initializer_list<int64_t> shape) {
    const size_t bytes = values.size() * sizeof(T);
    // Not empty, so that views are there.
    buffers_.push_back(Allocate(device_, std::max<size_t>(bytes, 1)));
    stream_->Copy(buffers_.back().data(), values.data(), bytes);
    stream_->Synchronize();
    return {buffers_.back().data(), dtype, shape, device_};
  }
  TensorView PutInts(const std::vector<int32_t>& values, std::initializer_list<int64_t> shape) {
    return Put(values, DType::kI32, shape);
  }
  TensorView PutInts(const std::vector<int32_t>& values) {
    return PutInts(values, {static_cast<int64_t>(values.size())});
  }
  // Rounded to `dtype`.
  TensorView PutFloats(const std::vector<float>& values, DType dtype,
                       std::initializer_list<int64_t> shape) {
    const int64_t size = DTypeSize(dtype);
    std::vector<char> bytes(values.size() * size);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint32_t bits = EncodeAs(dtype, values[i]);
      std::memcpy(&bytes[i * size], &bits, size);
    }
    return Put(bytes, dtype, shape);
  }

  // `count` values from the start of what `view` shows, once everything enqueued has run.
  template <typename T>
  std::vector<T> Get(const ConstTensorView& view, int64_t count) {
    std::vector<T> values(count);
    stream_->Copy(values.data(), view.data, count * sizeof(T));
    stream_->Synchronize();
    return values;
  }
  template <typename T>
  std::vector<T> Get(const ConstTensorView& view) {
    return Get<T>(view, view.num_elements());
  }
  std::vector<float> GetFloats(const ConstTensorView& view, int64_t count) {
    const int64_t size = DTypeSize(view.dtype);
    const std::vector<char> bytes = Get<char>(view, count * size);
    std::vector<float> values(count);
    for (int64_t i = 0; i < count; ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, &bytes[i * size], size);
      values[i] = DecodeAs(view.dtype, bits);
    }
    return values;
  }
  std::vector<float> GetFloats(const ConstTensorView& view) {
    return GetFloats(view, view.num_elements());
  }

 private:
  ThreadPool threads_;
  Device device_;
  std::unique_ptr<Stream> stream_;
  Context context_;
  std::vector<Buffer> buffers_;
};

}  // namespace dualfp
