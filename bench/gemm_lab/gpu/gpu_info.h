// What a recorded measurement says of its machine and build.

#pragma once

#include <string>
#include <vector>

#include "dualfp/io/json.h"

namespace dualfp::gpu {

struct GpuInfo {
  int index = 0;
  std::string name;
  int sms = 0;
  int major = 0;  // compute capability
  int minor = 0;
};

// Every GPU the process sees. Throws kUnsupported, with the driver's reason, when there is none.
std::vector<GpuInfo> ListGpus();

// The GPUs with these indices (all = empty), each of compute capability 9.0; else an error that
// lists what there is. `caller` begins the messages.
std::vector<GpuInfo> SelectGpus(const std::vector<int>& indices, const char* caller);

// "580.159.04", or empty where the kernel module does not tell.
std::string DriverVersion();

// {"kind": "run", gpu, sms, driver, cuda, kernels, commit, date, command}.
Json RunRecord(const GpuInfo& gpu, const std::string& command);

}  // namespace dualfp::gpu
