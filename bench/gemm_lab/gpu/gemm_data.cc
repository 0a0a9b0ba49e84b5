#include "bench/gemm_lab/gpu/gemm_data.h"

#include <cmath>
#include <random>
#include <vector>

#include "bench/gemm_lab/gpu/device_tools.h"
#include "bench/gemm_lab/report/record.h"
#include "dualfp/kernels/cuda/planes.h"
#include "dualfp/kernels/cuda/quantize.h"
#include "dualfp/numeric/nested.h"

namespace dualfp::gpu {
namespace {

using cuda::CheckCuda;
using sm90::WeightFormat;

constexpr int kSampledRows = 8;
constexpr int64_t kRotatedBytes = 170'000'000;  // one byte a weight
constexpr int kBlock = 128;                     // elements that share a scale

int64_t Blocks(int64_t size) { return (size + kBlock - 1) / kBlock; }
int64_t MultipleOf4(int64_t size) { return (size + 3) / 4 * 4; }

// About what undoes the planes' scale, and different from block to block.
std::vector<float> RandomBlockScales(int64_t count) {
  std::mt19937 random(5);
  std::uniform_real_distribution<float> factor(0.5f, 1.5f);
  std::vector<float> scales(count);
  for (float& scale : scales) {
    scale = kNestedScale * factor(random);
  }
  return scales;
}

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
      w_block_stride_(static_cast<int>(MultipleOf4(Blocks(k)))),
      w_block_scale_(Blocks(n) * w_block_stride_ * 4),
      x_group_scale_(Blocks(k) * MultipleOf4(max_m) * 4),
      x_group_scale_baseline_(Blocks(k) * max_m * 4),
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
  const std::vector<float> scales = RandomBlockScales(Blocks(n) * w_block_stride_);
  CheckCuda(cudaMemcpyAsync(w_block_scale_.bytes(), scales.data(), scales.size() * sizeof(float),
                            cudaMemcpyHostToDevice, stream),
            "cudaMemcpyAsync");
  CheckCuda(cudaStreamSynchronize(stream), "random operands");
}

void GemmData::Prepare(const GemmFormat& format, int m, cudaStream_t stream) {
  format_ = &format;
  m_ = m;
  const bool nested12 = sm90::IsNested12(format.weights) || format.row_scaled;
  if (nested12 || format.weights == WeightFormat::kBf16) {
    MakeBf16(stream);
  }
  if (nested12 && !nested12_) {
    nested12_.emplace(w_bf16_->bytes(), copies_, n_, k_, stream);
  }
  if (format.weights == WeightFormat::kNested12F16 && !w_bf16_in_f16_) {
    const int64_t weights = int64_t{copies_} * n_ * k_;
    ToF16(w_bf16_->bytes(), w_bf16_in_f16_.emplace(weights * 2).bytes(), weights, stream);
  }
  if (IsFp8(format.name)) {
    QuantizeX(stream);
  }
  if (format.block_scaled) {
    QuantizeX(m, x_group_scale_baseline_.as<float>(), stream);
  }
  std::mt19937 random(m);
  std::vector<int> chosen{0, m - 1};
  while (chosen.size() < kSampledRows) {
    chosen.push_back(static_cast<int>(random() % m));
  }
  CheckCuda(cudaMemcpyAsync(rows_.bytes(), chosen.data(), kSampledRows * sizeof(int),
                            cudaMemcpyHostToDevice, stream),
            "cudaMemcpyAsync");
  Reference(Type(), X(), BaselineWeights(0), Scales(), rows_.as<int>(), kSampledRows, n_, k_,
            reference_.as<double>(), stream);
}

void GemmData::MakeBf16(cudaStream_t stream) {
  if (!w_bf16_) {
    const int64_t weights = int64_t{copies_} * n_ * k_;
    const int64_t activations = int64_t{max_m_} * k_;
    ToBf16(w16_.bytes(), w_bf16_.emplace(weights * 2).bytes(), weights, stream);
    ToBf16(x16_.bytes(), x_bf16_.emplace(activations * 2).bytes(), activations, stream);
  }
}

void GemmData::QuantizeX(cudaStream_t stream) const {
  if (format_->block_scaled) {
    QuantizeX(MultipleOf4(m_), x_group_scale_.as<float>(), stream);
  } else {
    QuantizeX(0, x_scale_.as<float>(), stream);
  }
}

void GemmData::QuantizeX(int64_t group_stride, float* scale, cudaStream_t stream) const {
  cuda::QuantizeArgs quantize;
  quantize.m = m_;
  quantize.k = k_;
  quantize.x = x16_.bytes();
  quantize.x_stride = k_;
  quantize.group_stride = group_stride;
  quantize.q = x8_.bytes();
  quantize.scale = scale;
  cuda::Quantize(quantize, stream, true);
}

cudaDataType_t GemmData::Type() const {
  if (IsFp8(format_->name)) {
    return CUDA_R_8F_E4M3;
  }
  const bool bf16 =
      format_->weights == WeightFormat::kBf16 || format_->weights == WeightFormat::kNested12Bf16;
  return bf16 ? CUDA_R_16BF : CUDA_R_16F;
}

const void* GemmData::X() const {
  return Type() == CUDA_R_8F_E4M3 ? x8_.bytes()
         : Type() == CUDA_R_16BF  ? x_bf16_->bytes()
                                  : x16_.bytes();
}

sm90::BlockScales GemmData::Scales() const {
  sm90::BlockScales scales;
  if (format_->block_scaled) {
    scales.w = w_block_scale_.as<float>();
    scales.w_stride = w_block_stride_;
    scales.x = x_group_scale_.as<float>();
    scales.x_stride = static_cast<int>(MultipleOf4(m_));
  }
  return scales;
}

sm90::GemmProblem GemmData::Problem(int copy) const {
  const bool nested = format_->weights == WeightFormat::kNested;
  const int64_t offset = int64_t{copy % copies_} * n_ * k_;
  sm90::GemmProblem problem;
  problem.format = format_->weights;
  problem.m = m_;
  problem.n = n_;
  problem.k = k_;
  problem.w = nested ? upper_.bytes() + offset : BaselineWeights(copy);
  problem.w_lower = nested ? lower_.bytes() + offset : nullptr;
  problem.x = X();
  problem.x_stride = k_;
  problem.workspace = workspace_.bytes();
  problem.epilogue.y = y_.bytes();
  problem.epilogue.y_stride = n_;
  if (Type() == CUDA_R_16BF) {
    problem.epilogue.y_type = sm90::OutputType::kBf16;
  }
  problem.block = Scales();
  if (sm90::IsNested12(format_->weights) || format_->row_scaled) {
    const int own = copy % copies_;
    problem.w = nested12_->upper(own);
    problem.epilogue.w_scale = nested12_->row_scale(own);
    problem.epilogue.w_scale_stride = 1;
    if (!format_->row_scaled) {
      problem.w_lower = nested12_->nibbles(own);
      problem.tiny = nested12_->tiny(own);
    }
  }
  if (ScaledByToken()) {
    problem.epilogue.alpha = kNestedScale;
    problem.epilogue.x_scale = x_scale_.as<float>();
    problem.epilogue.x_scale_stride = 1;
  }
  return problem;
}

CublasLt::Problem GemmData::BaselineProblem() const {
  CublasLt::Problem problem;
  problem.type = Type();
  problem.fast_accumulation = format_->weights == WeightFormat::kE4m3;
  problem.m = m_;
  problem.n = n_;
  problem.k = k_;
  problem.x = X();
  problem.y = y_.bytes();
  if (format_->block_scaled) {
    problem.w_block_scales = w_block_scale_.as<float>();
    problem.x_group_scales = x_group_scale_baseline_.as<float>();
  }
  return problem;
}

const void* GemmData::BaselineWeights(int copy) const {
  const int64_t offset = int64_t{copy % copies_} * n_ * k_;
  if (format_->row_scaled) {
    return nested12_->upper(copy % copies_);
  }
  if (format_->weights == WeightFormat::kNested12F16) {
    return w_bf16_in_f16_->bytes() + offset * 2;
  }
  return Type() == CUDA_R_8F_E4M3 ? upper_.bytes() + offset
         : Type() == CUDA_R_16BF  ? w_bf16_->bytes() + offset * 2
                                  : w16_.bytes() + offset * 2;
}

void GemmData::Poison(cudaStream_t stream) const {
  FillByte(y_.bytes(), int64_t{m_} * n_ * 2, 0xFF, stream);
}

double GemmData::Error(bool scaled, cudaStream_t stream) const {
  FillByte(error_.bytes(), 2 * sizeof(double), 0, stream);
  Compare(Type(), y_.bytes(), n_, rows_.as<int>(), kSampledRows, n_, reference_.as<double>(),
          ScaledByToken() ? 1.0 / kNestedScale : 1.0,
          scaled && ScaledByToken() ? x_scale_.as<float>() : nullptr,
          scaled && format_->row_scaled ? nested12_->row_scale(0) : nullptr, error_.as<double>(),
          stream);
  double sums[2];
  CheckCuda(cudaMemcpyAsync(sums, error_.bytes(), sizeof(sums), cudaMemcpyDeviceToHost, stream),
            "cudaMemcpyAsync");
  CheckCuda(cudaStreamSynchronize(stream), "error");
  return std::sqrt(sums[0] / sums[1]);
}

}  // namespace dualfp::gpu
