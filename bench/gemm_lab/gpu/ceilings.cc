#include "bench/gemm_lab/gpu/ceilings.h"

#include "bench/gemm_lab/gpu/device_memory.h"
#include "bench/gemm_lab/gpu/device_tools.h"
#include "bench/gemm_lab/gpu/gemm_data.h"
#include "bench/gemm_lab/gpu/graph_replay.h"

namespace dualfp::gpu {
namespace {

constexpr int kLargeProduct = 8192;
constexpr int kSamples = 5;
constexpr int kLaunches = 4;

}  // namespace

double CopyBytesPerMicrosecond(cudaStream_t stream) {
  const int64_t bytes = int64_t{1} << 30;
  DeviceMemory from(bytes);
  DeviceMemory to(bytes);
  FillNormal(from.bytes(), bytes / 2, 1.0f, 8.0f, 3, stream);
  GraphReplay replay(stream, kLaunches,
                     [&](int, cudaStream_t s) { Copy(from.bytes(), to.bytes(), bytes, s); });
  return 2.0 * static_cast<double>(bytes) / MedianMicroseconds(replay, kSamples);
}

Ceilings MeasureCeilings(CublasLt* baseline, cudaStream_t stream) {
  Ceilings ceilings;
  ceilings.bytes_per_microsecond = CopyBytesPerMicrosecond(stream);
  if (baseline == nullptr) {
    return ceilings;
  }
  GemmData data(kLargeProduct, kLargeProduct, kLargeProduct, 1, stream);
  for (const auto weights : {sm90::WeightFormat::kF16, sm90::WeightFormat::kE4m3}) {
    data.Prepare(FormatOf(weights), kLargeProduct, stream);
    if (baseline->Prepare(data.BaselineProblem(), 1) == 0) {
      continue;
    }
    GraphReplay replay(stream, kLaunches,
                       [&](int, cudaStream_t s) { baseline->Run(0, data.BaselineWeights(0), s); });
    double& rate = weights == sm90::WeightFormat::kE4m3 ? ceilings.fp8_flop_per_microsecond
                                                        : ceilings.fp16_flop_per_microsecond;
    rate =
        2.0 * kLargeProduct * kLargeProduct * kLargeProduct / MedianMicroseconds(replay, kSamples);
  }
  return ceilings;
}

}  // namespace dualfp::gpu
