// Plans of the Hopper GEMM kernels, each by itself: every one that could be chosen, beside what the
// op chooses (gemm_cuda_test.cc).

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <vector>

#include "dualfp/base/watchdog.h"
#include "dualfp/kernels/cuda/gemm_gpu_problem.h"
#include "dualfp/kernels/cuda/plan_runs.h"
#include "dualfp/kernels/cuda/upload.h"
#include "dualfp/numeric/nested.h"

namespace dualfp::cuda {
namespace {

class GemmPlanGpuTest : public OpsGpuTest {};

// In the Frobenius norm; not a number where either is.
double RelativeDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

enum class Extra { kNone, kOutliers, kBlockScales, kPartsBelow, kInterleavedParts };

bool HasBlockScales(Extra extra) {
  return extra == Extra::kBlockScales || extra == Extra::kPartsBelow ||
         extra == Extra::kInterleavedParts;
}

// What kernels of this format compute: on a plain weight or a nested one; block scales are of FP8
// weights.
TestFormat FormatFor(sm90::WeightFormat kernel, Extra extra) {
  const bool outliers = extra == Extra::kOutliers;
  if (HasBlockScales(extra)) {
    return {.name = "blocks",
            .format = QuantFormat::kFp8,
            .dtype = DType::kF8E4M3,
            .scale = ScaleGranularity::kBlock128,
            .precision = Precision::kFp8,
            .quant = ActivationQuant::kDynamicPerGroup,
            .parts = extra == Extra::kPartsBelow         ? TestParts::kBelow
                     : extra == Extra::kInterleavedParts ? TestParts::kInterleaved
                                                         : TestParts::kOne};
  }
  switch (kernel) {
    case sm90::WeightFormat::kF16:
      return {"plain", QuantFormat::kPlain, DType::kF16};
    case sm90::WeightFormat::kBf16:
      return {"plain", QuantFormat::kPlain, DType::kBF16};
    case sm90::WeightFormat::kNested:
      return {"nested",          QuantFormat::kNested,   DType::kF8E4M3, ScaleGranularity::kNone,
              Precision::kExact, ActivationQuant::kNone, outliers};
    default:
      return {"nested",        QuantFormat::kNested,
              DType::kF8E4M3,  ScaleGranularity::kNone,
              Precision::kFp8, ActivationQuant::kStaticPerTensor,
              outliers};
  }
}

// A problem for one kind of kernel, and what it should make. X and Y are FP16, beside BF16 weights
// BF16.
class PlanProblem {
 public:
  PlanProblem(sm90::WeightFormat kernel, Extra extra, const PlanShape& shape, Stream& ops,
              const TestEpilogue& epilogue = {})
      : format_(FormatFor(kernel, extra)),
        fp8_(format_.precision == Precision::kFp8),
        type_(kernel == sm90::WeightFormat::kBf16 ? DType::kBF16 : DType::kF16),
        weight_(format_, shape.n, shape.k, 12),
        expected_(format_, weight_, shape.m, type_, type_, epilogue, 13, kGap),
        device_(Upload(weight_.weight, 0, static_cast<cudaStream_t>(ops.native()))),
        gpu_(expected_, device_.weight),
        codes_(GemmWorkspaceBytes(gpu_.desc)),
        scale_(std::vector<float>(1, *weight_.weight.input_scale.as<float>())),
        workspace_(sm90::kWorkspaceBytes),
        y_bytes_(((shape.m - 1) * gpu_.args.y.strides[0] + expected_.y_columns) * 2) {
    expected_.args.accumulation =
        kernel == sm90::WeightFormat::kE4m3Promoted ? Accumulation::kPromoted : Accumulation::kFast;
    expected_.desc = DescribeGemm(expected_.args);
    if (fp8_) {
      // The op makes the codes of X in its workspace.
      Gemm(GpuProblem::ContextOf(ops, codes_), gpu_.args);
    }
    sm90::InitWorkspace(workspace_.as(), static_cast<cudaStream_t>(ops.native()));
    problem.format = kernel;
    problem.m = static_cast<int>(shape.m);
    problem.n = static_cast<int>(shape.n);
    problem.k = static_cast<int>(shape.k);
    problem.w = device_.weight.values.data;
    problem.w_lower = device_.weight.lower.data;
    problem.x = fp8_ ? codes_.as() : gpu_.args.x.data;
    problem.x_stride = fp8_ ? shape.k : gpu_.args.x.strides[0];
    if (HasBlockScales(extra)) {
      // As the op lays them out.
      const int64_t code_bytes = (shape.m * shape.k + 255) / 256 * 256;
      problem.block.x = reinterpret_cast<const float*>(codes_.as<uint8_t>() + code_bytes);
      problem.block.x_stride = static_cast<int>((shape.m + 3) / 4 * 4);
      problem.block.w = device_.weight.scales.as<float>();
      problem.block.w_stride = static_cast<int>((shape.k + 127) / 128);
      problem.block.parts = weight_.weight.parts;
    } else if (fp8_) {
      problem.epilogue.alpha = kNestedScale;
      problem.epilogue.x_scale = scale_.as<float>();
      problem.outliers.factor = 1 / kNestedScale;
    }
    if (extra == Extra::kOutliers) {
      problem.outliers.index = device_.weight.outliers.index.as<int64_t>();
      problem.outliers.value = device_.weight.outliers.value.as<float>();
      problem.outliers.count = static_cast<int>(device_.weight.outliers.size());
    }
    problem.epilogue.y = gpu_.args.y.data;
    problem.epilogue.y_stride = gpu_.args.y.strides[0];
    problem.epilogue.y_type =
        type_ == DType::kBF16 ? sm90::OutputType::kBf16 : sm90::OutputType::kF16;
    problem.epilogue.silu_mul = epilogue.activation == Activation::kSiluMul;
    problem.epilogue.bias = gpu_.args.bias.as<float>();
    problem.epilogue.residual = gpu_.args.residual.data;
    problem.epilogue.residual_stride = gpu_.args.residual.strides[0];
    problem.workspace = workspace_.as();
  }

  void Poison() const {
    CheckCuda(cudaMemset(const_cast<void*>(gpu_.args.y.data), 0xFF, y_bytes_), "poison");
    CheckCuda(cudaDeviceSynchronize(), "poison");
  }
  // Waits for all streams.
  std::vector<float> Y() const { return gpu_.Y(); }
  void ExpectRight(const std::vector<float>& y) const {
    expected_.ExpectNear(y, Tolerance(expected_.desc));
  }

  sm90::GemmProblem problem;

 private:
  TestFormat format_;
  bool fp8_;
  DType type_;
  TestWeight weight_;
  TestProblem expected_;
  DeviceWeight device_;
  GpuProblem gpu_;
  GuardedDevice codes_;
  GuardedDevice scale_;
  GuardedDevice workspace_;
  int64_t y_bytes_;
};

// What plans may differ by, which add in different orders and round to 16 bits.
double LargestDifference(sm90::WeightFormat kernel) {
  return kernel == sm90::WeightFormat::kE4m3   ? 5e-3
         : kernel == sm90::WeightFormat::kBf16 ? 8e-3
                                               : 1e-3;
}

// Runs plans of one kind of kernel, all or one of each kernel, and compares what they make.
void RunPlans(sm90::WeightFormat kernel, Extra extra, const PlanShape& shape,
              const PlanFilter& filter, bool once, Stream& ops, int* runs,
              const TestEpilogue& epilogue = {}) {
  const PlanProblem p(kernel, extra, shape, ops, epilogue);
  std::vector<float> first;
  ForEachPlan(p.problem, filter, once, [&](const sm90::Plan& plan) {
    p.Poison();
    sm90::Launch(plan, p.problem, static_cast<cudaStream_t>(ops.native()), *runs % 2 == 1);
    const std::vector<float> y = p.Y();
    if (first.empty()) {
      first = y;
      p.ExpectRight(y);
    }
    EXPECT_LE(RelativeDifference(y, first), LargestDifference(kernel));
    ++*runs;
  });
}

constexpr sm90::WeightFormat kKernelFormats[] = {
    sm90::WeightFormat::kNested, sm90::WeightFormat::kE4m3, sm90::WeightFormat::kE4m3Promoted,
    sm90::WeightFormat::kF16, sm90::WeightFormat::kBf16};

// Every plan of every kernel, not only the chosen ones; but BF16's, which are FP16's but for one
// instruction.
TEST_F(GemmPlanGpuTest, EveryPlan) {
  int runs = 0;
  for (const sm90::WeightFormat kernel : kKernelFormats) {
    if (kernel == sm90::WeightFormat::kBf16) {
      continue;
    }
    for (const PlanShape& shape : kPlanShapes) {
      RunPlans(kernel, Extra::kNone, shape, IsExtremePlan, false, *ops_, &runs);
      if (shape.m % 16 != 1 && !sm90::IsPlain(kernel)) {
        RunPlans(kernel, Extra::kOutliers, shape, IsExtremePlan, false, *ops_, &runs);
      }
      if (HasFailure()) {
        return;
      }
    }
  }
  std::printf("%d runs of plans\n", runs);
  EXPECT_GT(runs, 500);
}

// Every kernel that has registers for them, with activations and residuals: which ones a model runs
// with is a matter of measurement.
TEST_F(GemmPlanGpuTest, EveryKernelFinishes) {
  constexpr TestEpilogue kEpilogues[] = {{Activation::kNone, true, false},
                                         {Activation::kSiluMul, true, true},
                                         {Activation::kSiluMul, false, true},
                                         {Activation::kNone, false, true}};
  for (const sm90::WeightFormat kernel : kKernelFormats) {
    for (const TestEpilogue& epilogue : kEpilogues) {
      for (const int split_k : {1, 2}) {
        const auto filter = [split_k](const sm90::Plan& plan) {
          return plan.cluster.size() == 1 && plan.split_k == split_k;
        };
        int runs = 0;
        RunPlans(kernel, Extra::kNone, {139, 400, 336}, filter, true, *ops_, &runs, epilogue);
        EXPECT_GT(runs, split_k == 1 ? 10 : 2);
        if (HasFailure()) {
          return;
        }
      }
    }
  }
}

// Scales of every stage: tiles that lie in one block of 128 weights and in two, whole and in part;
// weights of several parts.
TEST_F(GemmPlanGpuTest, EveryPromotedKernelWithBlockScales) {
  const auto filter = [](const sm90::Plan& plan) {
    return plan.cluster.size() <= 2 && plan.split_k <= 3;
  };
  int runs = 0;
  for (const PlanShape& shape :
       {PlanShape{1, 272, 144}, {139, 656, 1040}, {300, 400, 2064}, {64, 1200, 128}}) {
    for (const Extra extra : {Extra::kBlockScales, Extra::kPartsBelow, Extra::kInterleavedParts}) {
      RunPlans(sm90::WeightFormat::kE4m3Promoted, extra, shape, filter, false, *ops_, &runs);
      if (HasFailure()) {
        return;
      }
    }
  }
  EXPECT_GT(runs, 250);
}

// Tiles enough for several rounds, in which rings run on from tile to tile and warpgroups
// ping-pong.
TEST_F(GemmPlanGpuTest, EveryPersistentKernelInManyRounds) {
  for (const sm90::WeightFormat kernel : kKernelFormats) {
    int runs = 0;
    RunPlans(kernel, Extra::kNone, kManyTiles, WalksOverTiles, false, *ops_, &runs);
    EXPECT_GT(runs, 30);
    if (HasFailure()) {
      return;
    }
  }
}

// CTAs that wait for each other's sums must end wherever and whenever they start: here beside two
// more streams, one of them with the same kind of kernels.
TEST_F(GemmPlanGpuTest, SharedTilesBesideOtherStreams) {
  const PlanProblem busy(sm90::WeightFormat::kE4m3, Extra::kNone, {700, 4096, 2064}, *ops_);
  const PlanProblem first(sm90::WeightFormat::kNested, Extra::kNone, {190, 1936, 1040}, *ops_);
  const PlanProblem second(sm90::WeightFormat::kNested, Extra::kNone, {130, 2000, 528}, *ops_);
  CheckCuda(cudaDeviceSynchronize(), "problems");
  const sm90::Plan whole = sm90::PlanByName("e4m3_pingpong_r128_t128_k128");
  Watchdog dog(kHangLimit);
  std::array<cudaStream_t, 2> others{};
  for (cudaStream_t& other : others) {
    CheckCuda(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  for (const char* name :
       {"nested_persistent_r128_t64_k128/k2", "nested_persistent_r128_t128_k64/k4",
        "nested_persistent_r128_t96_k64/k", "nested_persistent_r192_t128_k64/k2"}) {
    SCOPED_TRACE(name);
    const sm90::Plan plan = sm90::PlanByName(name);
    ASSERT_EQ(Unsupported(plan, first.problem), "");
    ASSERT_EQ(Unsupported(plan, second.problem), "");
    std::vector<float> alone[2];
    for (int round = 0; round < 3; ++round) {
      const Watchdog::Watch watch(dog, [&] { std::fprintf(stderr, "HUNG: %s\n", name); });
      first.Poison();
      second.Poison();
      for (int i = 0; i < 40; ++i) {
        sm90::Launch(whole, busy.problem, stream_, true);
        sm90::Launch(plan, first.problem, others[0], i % 2 == 1);
        sm90::Launch(plan, second.problem, others[1], true);
      }
      const std::vector<float> y[2] = {first.Y(), second.Y()};
      first.ExpectRight(y[0]);
      second.ExpectRight(y[1]);
      for (int i = 0; i < 2; ++i) {
        EXPECT_EQ(round == 0 ? y[i] : alone[i], y[i]);
        alone[i] = y[i];
      }
    }
  }
  for (cudaStream_t other : others) {
    CheckCuda(cudaStreamDestroy(other), "cudaStreamDestroy");
  }
}

class KernelFamilyGpuTest : public OpsGpuTest,
                            public ::testing::WithParamInterface<KernelFamily> {};

TEST_P(KernelFamilyGpuTest, EveryKernelOnce) {
  const KernelFamily& family = GetParam();
  const auto filter = [&](const sm90::Plan& plan) { return family.Has(plan); };
  int runs = 0;
  RunPlans(family.format, Extra::kNone, kLittleWork, filter, true, *ops_, &runs);
  if (family.family == sm90::Family::kSplit && !sm90::IsPlain(family.format)) {
    RunPlans(family.format, Extra::kOutliers, kLittleWork, filter, true, *ops_, &runs);
  }
  EXPECT_GT(runs, 0);
}

INSTANTIATE_TEST_SUITE_P(All, KernelFamilyGpuTest, ::testing::ValuesIn(FamiliesOf(kKernelFormats)),
                         [](const auto& test) { return TestName(test.param); });

}  // namespace
}  // namespace dualfp::cuda
