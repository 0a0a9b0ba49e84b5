#include "bench/gemm_lab/gpu/gpu_info.h"

#include <cuda_runtime_api.h>
#include <fmt/core.h>

#include <ctime>
#include <fstream>

#include "bench/gemm_lab/commit.h"
#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/sm90/select/tuned_table.h"

namespace dualfp::gpu {

std::vector<GpuInfo> ListGpus() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  Check(status == cudaSuccess && count > 0, ErrorCode::kUnsupported,
        "no GPU: ", status == cudaSuccess ? "CUDA sees none" : cudaGetErrorString(status));
  std::vector<GpuInfo> gpus;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    cuda::CheckCuda(cudaGetDeviceProperties(&properties, i), "cudaGetDeviceProperties");
    gpus.push_back(
        {i, properties.name, properties.multiProcessorCount, properties.major, properties.minor});
  }
  return gpus;
}

std::vector<GpuInfo> SelectGpus(const std::vector<int>& indices, const char* caller) {
  std::vector<GpuInfo> gpus;
  try {
    gpus = ListGpus();
  } catch (const Error& error) {
    Fail(error.code(), caller, ": ", error.what());
  }
  std::string all;
  for (const GpuInfo& gpu : gpus) {
    all += fmt::format("{}{}: {} ({}.{})", all.empty() ? "" : ", ", gpu.index, gpu.name, gpu.major,
                       gpu.minor);
  }
  std::vector<GpuInfo> selected;
  for (const GpuInfo& gpu : gpus) {
    if (indices.empty() && gpu.major == 9) {
      selected.push_back(gpu);
    }
  }
  for (const int index : indices) {
    Check(index < static_cast<int>(gpus.size()) && gpus[index].major == 9, ErrorCode::kUnsupported,
          caller, ": GPU ", index, " is not one of compute capability 9.0; there are ", all);
    selected.push_back(gpus[index]);
  }
  Check(!selected.empty(), ErrorCode::kUnsupported, caller,
        ": no GPU of compute capability 9.0; there are ", all);
  return selected;
}

std::string DriverVersion() {
  std::ifstream file("/sys/module/nvidia/version");
  std::string version;
  file >> version;
  if (version.empty()) {
    // "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build ..."
    std::ifstream details("/proc/driver/nvidia/version");
    for (std::string word; details >> word;) {
      if (word.find_first_not_of("0123456789.") == std::string::npos) {
        return word;
      }
    }
  }
  return version;
}

Json RunRecord(const GpuInfo& gpu, const std::string& command) {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char date[32];
  std::strftime(date, sizeof(date), "%Y-%m-%d", &utc);
  int runtime = 0;
  cuda::CheckCuda(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  return {{"kind", "run"},
          {"gpu", gpu.name},
          {"sms", gpu.sms},
          {"driver", DriverVersion()},
          {"cuda", fmt::format("{}.{}", runtime / 1000, runtime % 1000 / 10)},
          {"kernels", sm90::KernelFingerprint()},
          {"commit", Commit()},
          {"date", date},
          {"command", command}};
}

}  // namespace dualfp::gpu
