// Versions, devices and what belongs to a stream.

#include <algorithm>
#include <string>

#include "capi/device_ops.h"
#include "capi/guard.h"
#include "capi/host_threads.h"
#include "capi/views.h"
#include "dualfp/base/check.h"
#include "dualfp/kernels/device.h"

using dualfp::capi::Guarded;
using dualfp::capi::ToDevice;

int32_t dualfp_abi_version(void) { return DUALFP_ABI_VERSION; }

const char* dualfp_version(void) { return DUALFP_VERSION; }

int32_t dualfp_gpu_count(void) {
  int32_t count = 0;
  Guarded([&] {
    const auto devices = dualfp::Devices();
    count = static_cast<int32_t>(std::count_if(
        devices.begin(), devices.end(),
        [](const dualfp::Device& device) { return device.type == dualfp::DeviceType::kCuda; }));
  });
  return count;
}

dualfp_status dualfp_compute_capability(int32_t device, int32_t* capability) {
  return Guarded(
      [&] { *capability = dualfp::GetDeviceProperties(ToDevice(device)).compute_capability; });
}

dualfp_status dualfp_device_name(int32_t device, char* name, size_t size) {
  return Guarded([&] {
    const std::string full = dualfp::GetDeviceProperties(ToDevice(device)).name;
    dualfp::Check(size > 0, dualfp::ErrorCode::kInvalidArgument, "device_name: no room for a name");
    const size_t length = std::min(size - 1, full.size());
    full.copy(name, length);
    name[length] = '\0';
  });
}

dualfp_status dualfp_set_num_threads(int32_t threads) {
  return Guarded([&] { dualfp::capi::SetHostThreads(threads); });
}

dualfp_status dualfp_stream_state_bytes(int32_t device, int64_t* bytes) {
  return Guarded([&] { *bytes = dualfp::StreamStateBytes(ToDevice(device)); });
}

dualfp_status dualfp_stream_is_capturing(int32_t device, void* stream, int32_t* capturing) {
  return Guarded([&] {
    *capturing =
        device != DUALFP_CPU && dualfp::capi::IsCapturing(ToDevice(device).index, stream) ? 1 : 0;
  });
}

dualfp_status dualfp_stream_state_init(int32_t device, void* state, void* stream) {
  return Guarded([&] { dualfp::InitStreamState(ToDevice(device), state, stream); });
}
