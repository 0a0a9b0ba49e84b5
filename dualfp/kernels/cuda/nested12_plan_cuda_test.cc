// Every plan of the Hopper kernels of Nested12 weights against the BF16 weights that the planes
// were made of.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "dualfp/kernels/cuda/nested12_gpu_util.h"
#include "dualfp/kernels/cuda/plan_runs.h"
#include "dualfp/numeric/fp16.h"

namespace dualfp::cuda {
namespace {

using sm90::WeightFormat;

class Nested12GpuTest : public GpuTest {};

// A product on raw pointers. X and Y have the format's type, or Y is FP32.
class PlanProblem {
 public:
  PlanProblem(WeightFormat format, const PlanShape& shape, cudaStream_t stream)
      : shape_(shape),
        bf16_(format == WeightFormat::kNested12Bf16),
        w_(RandomWeights(shape.n, shape.k, shape.n * 31 + shape.k)),
        planes_(w_, shape.n, shape.k, stream),
        x_(int64_t{shape.m} * shape.k * 2),
        y_(int64_t{shape.m} * Stride() * 4),
        workspace_(sm90::kWorkspaceBytes) {
    sm90::InitWorkspace(workspace_.as(), stream);
    problem.format = format;
    problem.m = shape.m;
    problem.n = shape.n;
    problem.k = shape.k;
    problem.w = planes_.upper.as();
    problem.w_lower = planes_.nibbles.as();
    problem.tiny = planes_.tiny.as<TinyWeight>();
    problem.x = x_.as();
    problem.x_stride = shape.k;
    problem.epilogue.w_scale = planes_.row_scale.as<float>();
    problem.epilogue.w_scale_stride = 1;
    problem.epilogue.y = y_.as();
    problem.epilogue.y_stride = Stride();
    problem.epilogue.y_type = bf16_ ? sm90::OutputType::kBf16 : sm90::OutputType::kF16;
    problem.workspace = workspace_.as();
  }

  // Token m picks column (first + m) of W.
  void SetOneHot(int first) {
    std::vector<uint16_t> x(int64_t{shape_.m} * shape_.k, 0);
    for (int m = 0; m < shape_.m; ++m) {
      x[int64_t{m} * shape_.k + (first + m) % shape_.k] = Bits(1.0f);
    }
    x_.Write(x.data(), x_.bytes());
    // Wide tiles round v in FP16 fragments, to units of 2^-24; Y is rounded in all.
    const std::vector<float> scale = planes_.row_scale.Read<float>();
    expected_.clear();
    rounded_.clear();
    for (int m = 0; m < shape_.m; ++m) {
      for (int n = 0; n < shape_.n; ++n) {
        const float w = Bf16ToFloat(w_[int64_t{n} * shape_.k + (first + m) % shape_.k]);
        const float v = Fp16ToFloat(FloatToFp16(w / scale[n]));
        expected_.push_back(bf16_ ? w : Fp16ToFloat(FloatToFp16(w)));
        rounded_.push_back(bf16_ ? w : Fp16ToFloat(FloatToFp16(v * scale[n])));
      }
    }
  }
  void SetRandom(uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    std::vector<uint16_t> x(int64_t{shape_.m} * shape_.k);
    std::generate(x.begin(), x.end(), [&] { return Bits(normal(random)); });
    x_.Write(x.data(), x_.bytes());
    reference_.assign(int64_t{shape_.m} * shape_.n, 0.0);
    std::vector<double> w(shape_.k);
    for (int n = 0; n < shape_.n; ++n) {
      for (int k = 0; k < shape_.k; ++k) {
        w[k] = Bf16ToFloat(w_[int64_t{n} * shape_.k + k]);
      }
      for (int m = 0; m < shape_.m; ++m) {
        double sum = 0;
        for (int k = 0; k < shape_.k; ++k) {
          sum += w[k] * Value(x[int64_t{m} * shape_.k + k]);
        }
        reference_[int64_t{m} * shape_.n + n] = sum;
      }
    }
  }

  void Poison() { y_.Poison(); }
  std::vector<uint16_t> Y() const {
    std::vector<uint16_t> all = y_.Read<uint16_t>();
    all.resize(int64_t{shape_.m} * Stride());
    return all;
  }

  // After SetOneHot: Y is W.
  void ExpectWeights(const std::vector<uint16_t>& y, bool wide) const {
    const std::vector<float>& expected = wide ? rounded_ : expected_;
    int wrong = 0;
    for (int m = 0; m < shape_.m; ++m) {
      for (int n = 0; n < shape_.n; ++n) {
        const float got = Value(y[int64_t{m} * Stride() + n]);
        if (!(got == expected[int64_t{m} * shape_.n + n]) && ++wrong < 5) {
          ADD_FAILURE() << "token " << m << " row " << n << ": " << got << ", expected "
                        << expected[int64_t{m} * shape_.n + n];
        }
      }
    }
  }

  // After SetRandom: relative Frobenius error against FP64 with the exact weights, beyond what
  // rounding Y to its type makes.
  double Error(const std::vector<uint16_t>& y) const {
    double error = 0;
    double norm = 0;
    for (int m = 0; m < shape_.m; ++m) {
      for (int n = 0; n < shape_.n; ++n) {
        const double expected = reference_[int64_t{m} * shape_.n + n];
        const double got = Value(y[int64_t{m} * Stride() + n]);
        const double rounding =
            std::max(std::abs(expected) * (bf16_ ? 0x1p-8 : 0x1p-11), bf16_ ? 0.0 : 0x1p-25);
        const double beyond = std::max(0.0, std::abs(got - expected) - rounding);
        error += std::isnan(got) ? NAN : beyond * beyond;
        norm += expected * expected;
      }
    }
    return std::sqrt(error / norm);
  }

  // The same of a Y in FP32, where nothing is rounded.
  double ErrorF32() const {
    const std::vector<float> y = y_.Read<float>();
    double error = 0;
    double norm = 0;
    for (int m = 0; m < shape_.m; ++m) {
      for (int n = 0; n < shape_.n; ++n) {
        const double expected = reference_[int64_t{m} * shape_.n + n];
        const double difference = y[int64_t{m} * Stride() + n] - expected;
        error += difference * difference;
        norm += expected * expected;
      }
    }
    return std::sqrt(error / norm);
  }

  sm90::GemmProblem problem;

 private:
  int64_t Stride() const { return shape_.n + 8; }
  uint16_t Bits(float v) const { return bf16_ ? FloatToBf16(v) : FloatToFp16(v); }
  float Value(uint16_t bits) const { return bf16_ ? Bf16ToFloat(bits) : Fp16ToFloat(bits); }

  PlanShape shape_;
  bool bf16_;
  std::vector<uint16_t> w_;
  DevicePlanes planes_;
  GuardedDevice x_;
  GuardedDevice y_;
  GuardedDevice workspace_;
  std::vector<double> reference_;
  std::vector<float> expected_;
  std::vector<float> rounded_;
};

constexpr WeightFormat kFormats[] = {WeightFormat::kNested12F16, WeightFormat::kNested12Bf16};

// Beyond the rounding of Y; sums are FP32.
constexpr double kLargestError = 1e-5;

// One-hot tokens and random ones, these twice, through plans: all or one of each kernel.
void RunPlans(WeightFormat format, const PlanShape& shape, const PlanFilter& filter, bool once,
              cudaStream_t stream, int* runs) {
  PlanProblem p(format, shape, stream);
  const auto run = [&](const sm90::Plan& plan, bool overlap) {
    p.Poison();
    sm90::Launch(plan, p.problem, stream, overlap);
    ++*runs;
    return p.Y();
  };
  p.SetOneHot(shape.k / 3);
  ForEachPlan(p.problem, filter, once, [&](const sm90::Plan& plan) {
    p.ExpectWeights(run(plan, *runs % 2 == 1), plan.config->patches);
  });
  p.SetRandom(9);
  ForEachPlan(p.problem, filter, once, [&](const sm90::Plan& plan) {
    const std::vector<uint16_t> y = run(plan, false);
    EXPECT_LT(p.Error(y), kLargestError);
    EXPECT_EQ(y, run(plan, true));
  });
}

TEST_F(Nested12GpuTest, EveryPlan) {
  int runs = 0;
  for (const WeightFormat format : kFormats) {
    for (const PlanShape& shape : kPlanShapes) {
      RunPlans(format, shape, IsExtremePlan, false, stream_, &runs);
      if (HasFailure()) {
        return;
      }
    }
  }
  std::printf("%d runs of plans\n", runs);
  EXPECT_GT(runs, 500);
}

// Tiles enough for several rounds, in which rings run on from tile to tile.
TEST_F(Nested12GpuTest, EveryPersistentKernelInManyRounds) {
  for (const WeightFormat format : kFormats) {
    int runs = 0;
    RunPlans(format, kManyTiles, WalksOverTiles, false, stream_, &runs);
    EXPECT_GT(runs, 30);
    if (HasFailure()) {
      return;
    }
  }
}

TEST_F(Nested12GpuTest, Fp32ResultsAreExactSums) {
  for (const WeightFormat format : kFormats) {
    PlanProblem p(format, {17, 1040, 2064}, stream_);
    p.SetRandom(4);
    p.problem.epilogue.y_type = sm90::OutputType::kF32;
    int runs = 0;
    for (const sm90::RankedPlan& ranked : sm90::RankPlans(p.problem, sm90::DeviceModel())) {
      if (ranked.plan.cluster.size() <= 2) {
        p.Poison();
        sm90::Launch(ranked.plan, p.problem, stream_, true);
        EXPECT_LT(p.ErrorF32(), 1e-5) << Name(ranked.plan);
        ++runs;
      }
    }
    EXPECT_GT(runs, 10);
  }
}

class Nested12FamilyGpuTest : public GpuTest, public ::testing::WithParamInterface<KernelFamily> {};

TEST_P(Nested12FamilyGpuTest, EveryKernelOnce) {
  const auto filter = [&](const sm90::Plan& plan) { return GetParam().Has(plan); };
  int runs = 0;
  RunPlans(GetParam().format, kLittleWork, filter, true, stream_, &runs);
  EXPECT_GT(runs, 0);
}

INSTANTIATE_TEST_SUITE_P(All, Nested12FamilyGpuTest, ::testing::ValuesIn(FamiliesOf(kFormats)),
                         [](const auto& test) { return TestName(test.param); });

}  // namespace
}  // namespace dualfp::cuda
