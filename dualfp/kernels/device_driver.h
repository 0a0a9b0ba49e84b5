// What device.h asks of a kind of device; one implementation each for the CPU and for CUDA, the
// latter absent from builds without it.

#pragma once

#include <functional>
#include <memory>
#include <string>

#include "dualfp/kernels/device.h"

namespace dualfp {

// `index` is one of a device that exists.
class DeviceDriver {
 public:
  virtual ~DeviceDriver() = default;
  virtual int Count() const = 0;
  virtual std::string WhyNone() const = 0;  // where Count() is 0
  virtual DeviceProperties Properties(int index) const = 0;
  virtual int64_t FreeBytes(int index) const = 0;
  virtual Buffer Allocate(int index, size_t bytes) const = 0;
  virtual Buffer AllocatePinned(int index, size_t bytes) const = 0;
  virtual std::unique_ptr<Stream> MakeStream(int index, StreamUse use) const = 0;
  virtual std::unique_ptr<Stream> WrapStream(int index, void* native) const = 0;
  virtual int64_t StreamStateBytes(int index) const = 0;
  virtual void InitStreamState(int index, void* state, void* native) const = 0;
  virtual std::unique_ptr<Stream> WrapStream(int index, void* native, void* state) const = 0;
  virtual std::unique_ptr<Event> MakeEvent(int index) const = 0;
  virtual std::unique_ptr<Graph> Capture(Stream& stream, std::function<void()> body) const = 0;
};

const DeviceDriver& CpuDriver();   // cpu/device_cpu.cc
const DeviceDriver* CudaDriver();  // cuda/device_cuda.cc; nullptr from no_cuda/

}  // namespace dualfp
