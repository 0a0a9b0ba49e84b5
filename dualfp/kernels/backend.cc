#include "dualfp/kernels/backend.h"

#include "dualfp/base/check.h"
#include "dualfp/kernels/device.h"

namespace dualfp {
namespace {

bool IsUsable(const Backend& backend, DeviceType device) {
  if (backend.device != device) {
    return false;
  }
  return device == DeviceType::kCpu ? backend.isa <= DetectCpuIsa() : Devices().size() > 1;
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
