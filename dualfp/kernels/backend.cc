#include "dualfp/kernels/backend.h"

#include <algorithm>

#include "dualfp/base/check.h"
#include "dualfp/kernels/device.h"

namespace dualfp {
namespace {

bool IsUsable(const Backend& backend, DeviceType device) {
  if (backend.device != device) {
    return false;
  }
  if (device == DeviceType::kCpu) {
    return backend.isa <= DetectCpuIsa();
  }
  const std::vector<Device> devices = Devices();
  return std::any_of(devices.begin(), devices.end(), [&](Device gpu) {
    return gpu.type == device &&
           (backend.compute_capability == 0 ||
            GetDeviceProperties(gpu).compute_capability / 10 == backend.compute_capability);
  });
}

}  // namespace

std::span<const Backend> Backends() {
  static const std::vector<Backend> backends = [] {
    std::vector<Backend> list = CudaBackends();
    for (const Backend& backend : CpuBackends()) {
      list.push_back(backend);
    }
    list.push_back(ReferenceBackend());
    return list;
  }();
  return backends;
}

std::vector<const Backend*> UsableBackends(DeviceType device) {
  std::vector<const Backend*> usable;
  for (const Backend& backend : Backends()) {
    if (IsUsable(backend, device)) {
      usable.push_back(&backend);
    }
  }
  return usable;
}

const Backend& BestBackend(DeviceType device) {
  for (const Backend& backend : Backends()) {
    if (IsUsable(backend, device)) {
      return backend;
    }
  }
  Fail(ErrorCode::kUnsupported, "this build or machine has no backend for ",
       device == DeviceType::kCuda ? "CUDA" : "the CPU");
}

}  // namespace dualfp
