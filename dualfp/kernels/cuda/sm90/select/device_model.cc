#include "dualfp/kernels/cuda/sm90/select/device_model.h"

#include <cuda_runtime_api.h>

#include "dualfp/kernels/cuda/common/cuda_check.h"

namespace dualfp::sm90 {
namespace {

constexpr double kDramShare = 0.855;  // of the pins' rate, that a copy reaches on an H200

int Attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  cuda::CheckCuda(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace

DeviceModel CurrentDevice() {
  int device = 0;
  cuda::CheckCuda(cudaGetDevice(&device), "cudaGetDevice");
  cudaDeviceProp properties;
  cuda::CheckCuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  DeviceModel model;
  const DeviceModel h200;
  model.name = properties.name;
  model.sms = properties.multiProcessorCount;
  // Two transfers a clock of the memory.
  const double pins = 2.0 * Attribute(cudaDevAttrMemoryClockRate, device) * 1e-3 *
                      Attribute(cudaDevAttrGlobalMemoryBusWidth, device) / 8;
  if (pins > 0) {
    model.dram_bytes_per_us = pins * kDramShare;
  }
  const double share = static_cast<double>(model.sms) / h200.sms;
  for (int& ctas : model.ctas_in_clusters) {
    ctas = static_cast<int>(ctas * share);
  }
  return model;
}

}  // namespace dualfp::sm90
