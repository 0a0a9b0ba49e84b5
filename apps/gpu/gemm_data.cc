#include "apps/gpu/gemm_data.h"

#include <cmath>
#include <random>
#include <vector>

#include "apps/gpu/device_tools.h"
#include "dualfp/kernels/cuda/planes.h"
#include "dualfp/kernels/cuda/quantize.h"
#include "dualfp/numeric/nested.h"

namespace dualfp::gpu {
namespace {

using cuda::CheckCuda;
using sm90::WeightFormat;

constexpr int kSampledRows = 8;
constexpr int64_t kRotatedBytes = 170'000'000;  // one byte a weight

}  // namespace

int GemmData::CopiesFor(int n, int k) {
  return std::max<int>(2, static_cast<int>(kRotatedBytes / (int64_t{n} * k)) + 1);
}

GemmData::GemmData(int n, int k, int max_m, int copies, cudaStream_t stream)
    : n_(n),
      k_(k),
      max_m_(max_m),
      copies_(copies),
      w16_(int64_t{copies} * n * k * 2),
      upper_(int64_t{copies} * n * k),
      lower_(int64_t{copies} * n * k),
      x16_(int64_t{max_m} * k * 2),
      x8_(int64_t{max_m} * k),
      x_scale_(int64_t{max_m} * 4),
      y_(int64_t{max_m} * n * 2),
      rows_(kSampledRows * sizeof(int)),
      reference_(int64_t{kSampledRows} * n * sizeof(double)),
      error_(2 * sizeof(double)),
      workspace_(sm90::kWorkspaceBytes) {
  sm90::InitWorkspace(workspace_.bytes(), stream);
  // Trained weights are about this wide; none is an outlier.
  FillNormal(w16_.bytes(), int64_t{copies} * n * k, 0.02f, 1.75f, 1 + n, stream);
  FillNormal(x16_.bytes(), int64_t{max_m} * k, 1.0f, 100.0f, 7 + k, stream);
  DeviceMemory counts(sizeof(cuda::SplitCounts));
  FillByte(counts.bytes(), sizeof(cuda::SplitCounts), 0, stream);
  cuda::OutlierSink sink;
  sink.counts = counts.as<cuda::SplitCounts>();
  cuda::SplitPlanes(w16_.bytes(), int64_t{copies} * n, k, upper_.bytes(), lower_.bytes(), sink,
                    stream);
  QuantizeX(max_m, stream);
  CheckCuda(cudaStreamSynchronize(stream), "random operands");
}

void GemmData::QuantizeX(int m, cudaStream_t stream) const {
  cuda::QuantizeArgs quantize;
  quantize.m = m;
  quantize.k = k_;
  quantize.x = x16_.bytes();
  quantize.x_stride = k_;
  quantize.q = x8_.bytes();
  quantize.scale = x_scale_.as<float>();
  cuda::Quantize(quantize, stream, true);
}

sm90::GemmProblem GemmData::Problem(WeightFormat format, int m, int copy) const {
  const bool fp8 = format == WeightFormat::kE4m3;
  const int64_t offset = int64_t{copy % copies_} * n_ * k_;
  sm90::GemmProblem problem;
  problem.format = format;
  problem.m = m;
  problem.n = n_;
  problem.k = k_;
  problem.w = upper_.bytes() + offset;
  problem.w_lower = lower_.bytes() + offset;
  problem.x = PlainX(fp8);
  problem.x_stride = k_;
  problem.workspace = workspace_.bytes();
  problem.epilogue.y = y_.bytes();
  problem.epilogue.y_stride = n_;
  if (fp8) {
    problem.epilogue.alpha = kNestedScale;
    problem.epilogue.x_scale = x_scale_.as<float>();
    problem.epilogue.x_scale_stride = 1;
  }
  return problem;
}

const void* GemmData::PlainWeights(bool fp8, int copy) const {
  const int64_t offset = int64_t{copy % copies_} * n_ * k_;
  return fp8 ? upper_.bytes() + offset : w16_.bytes() + offset * 2;
}

void GemmData::MakeReference(WeightFormat format, int m, cudaStream_t stream) {
  std::mt19937 random(m);
  std::vector<int> chosen{0, m - 1};
  while (chosen.size() < kSampledRows) {
    chosen.push_back(static_cast<int>(random() % m));
  }
  CheckCuda(cudaMemcpyAsync(rows_.bytes(), chosen.data(), kSampledRows * sizeof(int),
                            cudaMemcpyHostToDevice, stream),
            "cudaMemcpyAsync");
  const bool fp8 = format == WeightFormat::kE4m3;
  Reference(PlainX(fp8), PlainWeights(fp8, 0), fp8, rows_.as<int>(), kSampledRows, n_, k_,
            reference_.as<double>(), stream);
}

void GemmData::Poison(int m, cudaStream_t stream) const {
  FillByte(y_.bytes(), int64_t{m} * n_ * 2, 0xFF, stream);
}

double GemmData::Error(WeightFormat format, bool scaled_by_token, cudaStream_t stream) const {
  FillByte(error_.bytes(), 2 * sizeof(double), 0, stream);
  Compare(y_.bytes(), n_, rows_.as<int>(), kSampledRows, n_, reference_.as<double>(),
          format == WeightFormat::kE4m3 ? 1.0 / kNestedScale : 1.0,
          scaled_by_token ? x_scale_.as<float>() : nullptr, error_.as<double>(), stream);
  double sums[2];
  CheckCuda(cudaMemcpyAsync(sums, error_.bytes(), sizeof(sums), cudaMemcpyDeviceToHost, stream),
            "cudaMemcpyAsync");
  CheckCuda(cudaStreamSynchronize(stream), "error");
  return std::sqrt(sums[0] / sums[1]);
}

double LargestError(WeightFormat format) { return format == WeightFormat::kE4m3 ? 5e-3 : 5e-4; }

}  // namespace dualfp::gpu
