#include "dualfp/kernels/device.h"

#include <charconv>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/kernels/device_driver.h"

namespace dualfp {
namespace {

constexpr std::string_view kCuda = "cuda";

// The driver of a device that exists.
const DeviceDriver& DriverOf(Device device) {
  const DeviceDriver* driver = device.type == DeviceType::kCpu ? &CpuDriver() : CudaDriver();
  if (driver != nullptr && 0 <= device.index && device.index < driver->Count()) {
    return *driver;
  }
  std::string names;
  for (const Device other : Devices()) {
    names += StrCat(names.empty() ? "" : ", ", DeviceName(other));
  }
  std::string why;
  if (driver == nullptr) {
    why = "; this build has no CUDA kernels";
  } else if (driver->Count() == 0) {
    why = StrCat("; ", driver->WhyNone());
  }
  Fail(ErrorCode::kNotFound, "no device ", DeviceName(device), ": this machine has ", names, why);
}

}  // namespace

std::string DeviceName(Device device) {
  return device.type == DeviceType::kCpu && device.index == 0
             ? "cpu"
             : StrCat(device.type == DeviceType::kCpu ? "cpu" : kCuda, ":", device.index);
}

Device ParseDevice(std::string_view name) {
  if (name == "cpu") {
    return Device{};
  }
  Device device{DeviceType::kCuda, 0};
  if (name == kCuda) {
    return device;
  }
  if (name.starts_with(kCuda) && name.substr(kCuda.size()).starts_with(':')) {
    const std::string_view number = name.substr(kCuda.size() + 1);
    const auto [end, error] =
        std::from_chars(number.data(), number.data() + number.size(), device.index);
    if (error == std::errc() && end == number.data() + number.size() && device.index >= 0) {
      return device;
    }
  }
  Fail(ErrorCode::kInvalidArgument, "device ", name, ": expected cpu, cuda or cuda:INDEX");
}

std::vector<Device> Devices() {
  std::vector<Device> devices;
  const auto add = [&](DeviceType type, const DeviceDriver& driver) {
    for (int index = 0; index < driver.Count(); ++index) {
      devices.push_back({type, index});
    }
  };
  add(DeviceType::kCpu, CpuDriver());
  if (CudaDriver() != nullptr) {
    add(DeviceType::kCuda, *CudaDriver());
  }
  return devices;
}

DeviceProperties GetDeviceProperties(Device device) {
  return DriverOf(device).Properties(device.index);
}

int64_t FreeMemoryBytes(Device device) { return DriverOf(device).FreeBytes(device.index); }

Buffer Allocate(Device device, size_t bytes) {
  return DriverOf(device).Allocate(device.index, bytes);
}

Buffer AllocatePinned(Device device, size_t bytes) {
  return DriverOf(device).AllocatePinned(device.index, bytes);
}

std::unique_ptr<Stream> MakeStream(Device device, StreamUse use) {
  return DriverOf(device).MakeStream(device.index, use);
}

std::unique_ptr<Stream> WrapStream(Device device, void* native) {
  return DriverOf(device).WrapStream(device.index, native);
}

int64_t StreamStateBytes(Device device) { return DriverOf(device).StreamStateBytes(device.index); }

void InitStreamState(Device device, void* state, void* native) {
  const DeviceDriver& driver = DriverOf(device);
  const int64_t bytes = driver.StreamStateBytes(device.index);
  Check(bytes == 0 || (state != nullptr && reinterpret_cast<uintptr_t>(state) % 256 == 0),
        ErrorCode::kInvalidArgument, "a stream's state on ", DeviceName(device), " is ", bytes,
        " bytes at a multiple of 256");
  driver.InitStreamState(device.index, state, native);
}

std::unique_ptr<Stream> WrapStream(Device device, void* native, void* state) {
  return DriverOf(device).WrapStream(device.index, native, state);
}

std::unique_ptr<Event> MakeEvent(Device device) { return DriverOf(device).MakeEvent(device.index); }

std::unique_ptr<Graph> Capture(Stream& stream, std::function<void()> body) {
  return DriverOf(stream.device()).Capture(stream, std::move(body));
}

}  // namespace dualfp
