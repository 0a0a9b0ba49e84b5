// The GPU's GEMM kernels through the op, against the product in double.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <set>

#include "dualfp/base/error.h"
#include "dualfp/kernels/cuda/gpu_test_util.h"
#include "dualfp/kernels/cuda/planes.h"
#include "dualfp/kernels/cuda/sm90/choose.h"
#include "dualfp/kernels/cuda/upload.h"
#include "dualfp/kernels/gemm.h"
#include "dualfp/kernels/gemm_kernels.h"
#include "dualfp/kernels/gemm_test_util.h"
#include "dualfp/numeric/nested.h"

namespace dualfp::cuda {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr Device kGpu{DeviceType::kCuda, 0};
constexpr int64_t kGap = 8;  // elements between rows

// A test problem's tensors on the GPU.
class GpuProblem {
 public:
  GpuProblem(const TestProblem& problem, const Weight& weight)
      : x_(Copy(problem.args.x)),
        y_(SpanBytes(problem.args.y)),
        bias_(Copy(problem.args.bias)),
        residual_(Copy(problem.args.residual)),
        args(problem.args),
        columns_(problem.y_columns) {
    args.weight = &weight;
    Move(args.x, x_);
    Move(args.y, y_);
    Move(args.bias, bias_);
    Move(args.residual, residual_);
    desc = DescribeGemm(args);
  }

  // Runs the op and returns Y; checks that nothing between its rows was written.
  std::vector<float> Run(cudaStream_t stream) {
    const GuardedDevice workspace(GemmWorkspaceBytes(desc));
    Context context;
    context.device = kGpu;
    context.stream = stream;
    context.workspace = TensorView(workspace.as(), DType::kU8, {workspace.bytes()}, kGpu);
    y_.Poison();
    Gemm(context, args);
    return Y();
  }

  std::vector<float> Y() const {
    const std::vector<uint8_t> bytes = y_.Read<uint8_t>();
    const int64_t size = DTypeSize(args.y.dtype);
    std::vector<float> y;
    for (int64_t row = 0; row < desc.m; ++row) {
      const uint8_t* begin = bytes.data() + row * args.y.strides[0] * size;
      for (int64_t i = 0; i < columns_; ++i) {
        y.push_back(LoadTestElement(begin, args.y.dtype, i));
      }
      for (int64_t i = columns_ * size; row + 1 < desc.m && i < args.y.strides[0] * size; ++i) {
        EXPECT_EQ(begin[i], GuardedDevice::kPoison) << "behind row " << row << " of Y";
      }
    }
    return y;
  }

 private:
  static int64_t SpanBytes(const ConstTensorView& view) {
    if (!view) {
      return 0;
    }
    const int64_t columns = view.shape[view.rank - 1];
    const int64_t rows = view.rank == 2 ? view.shape[0] : 1;
    return ((rows - 1) * view.strides[0] + columns) * DTypeSize(view.dtype);
  }
  static std::vector<uint8_t> Copy(const ConstTensorView& view) {
    std::vector<uint8_t> bytes(SpanBytes(view));
    std::memcpy(bytes.data(), view.data, bytes.size());
    return bytes;
  }
  template <class View>
  static void Move(View& view, const GuardedDevice& memory) {
    if (view) {
      view.data = memory.as();
      view.device = kGpu;
    }
  }

  GuardedDevice x_;
  GuardedDevice y_;
  GuardedDevice bias_;
  GuardedDevice residual_;

 public:
  GemmArgs args;
  GemmDesc desc;

 private:
  int64_t columns_;
};

// Of the tensor cores, beside the roundings of FP32 sums. They truncate where they align addends:
// FP16 products to somewhat more than FP32's bits, E4M3 products, of which one instruction adds 32,
// to 13 bits behind the leading one of the largest.
TestTolerance Tolerance(const GemmDesc& desc) {
  TestTolerance more;
  const auto k = static_cast<double>(desc.k);
  more.sum = k * 0x1p-23;
  if (desc.precision == Precision::kFp8) {
    const bool promoted = desc.accumulation == Accumulation::kPromoted ||
                          desc.weight_scale == ScaleGranularity::kBlock128 ||
                          desc.activation_quant == ActivationQuant::kDynamicPerGroup;
    more.sum += (promoted ? 5 : k / 32 + 1) * 0x1p-13;
  }
  // Kernels may round to Y's type before the activation, and take fast exponentials.
  const bool plain = desc.activation == Activation::kNone && !desc.has_residual;
  more.stored = plain                          ? 0
                : desc.y_dtype == DType::kBF16 ? 0x1p-8
                : desc.y_dtype == DType::kF16  ? 0x1p-11
                                               : 0x1p-19;
  return more;
}

bool RunsOnGpu(const TestFormat& format) {
  const bool fp8 = format.precision == Precision::kFp8;
  switch (format.format) {
    case QuantFormat::kPlain:
      return format.dtype != DType::kF32;
    case QuantFormat::kNested:
      return !fp8 || (format.quant != ActivationQuant::kNone &&
                      !(format.outliers && format.quant == ActivationQuant::kDynamicPerGroup));
    case QuantFormat::kFp8:
      return fp8 && format.quant != ActivationQuant::kNone;
    default:
      return false;
  }
}

class GemmGpuTest : public GpuTest {
 protected:
  // Skips plain formats where cuBLASLt is not installed.
  void Check(const TestFormat& format, const TestWeight& weight, const DeviceWeight& device,
             int64_t m, DType x_dtype, DType y_dtype, const TestEpilogue& epilogue,
             Accumulation accumulation) {
    TestProblem problem(format, weight, m, x_dtype, y_dtype, epilogue,
                        static_cast<uint32_t>(m * 7 + 1), kGap);
    problem.args.accumulation = accumulation;
    problem.desc = DescribeGemm(problem.args);
    GpuProblem gpu(problem, device.weight);
    const std::vector<float> y = gpu.Run(stream_);
    const double error = problem.ExpectNear(y, Tolerance(problem.desc));
    if (format.precision == Precision::kFp16 && y_dtype != DType::kBF16) {
      EXPECT_LE(error, 5e-4) << Describe(gpu.desc);
    }
    worst_ = std::max(worst_, error);
    EXPECT_EQ(gpu.Run(stream_), y) << "another run of " << Describe(gpu.desc);
    ++runs_;
  }

  double worst_ = 0;
  int runs_ = 0;
};

struct Shape {
  int64_t m, n, k;
};

TEST_F(GemmGpuTest, EveryFormatAtOddShapes) {
  constexpr Shape kShapes[] = {{1, 272, 144},   {3, 400, 1040}, {17, 1040, 528}, {63, 528, 1552},
                               {65, 144, 2064}, {127, 656, 80}, {257, 272, 336}, {1000, 144, 272}};
  constexpr TestEpilogue kEpilogues[] = {{},
                                         {Activation::kNone, true, false},
                                         {Activation::kNone, false, true},
                                         {Activation::kSiluMul, false, false},
                                         {Activation::kSilu, true, true},
                                         {Activation::kSiluMul, true, true}};
  constexpr DType kOutputs[] = {DType::kF16, DType::kBF16, DType::kF32};
  for (const TestFormat& format : TestFormats()) {
    if (!RunsOnGpu(format)) {
      continue;
    }
    GemmDesc probe;
    probe.device = DeviceType::kCuda;
    probe.x_dtype = probe.weight_dtype = format.dtype;
    if (format.format == QuantFormat::kPlain && !CudaGemmKernels().back().supports(probe).empty()) {
      std::printf("not run: %s: %s\n", format.name.c_str(),
                  CudaGemmKernels().back().supports(probe).c_str());
      continue;
    }
    worst_ = 0;
    int step = static_cast<int>(format.name.size());
    for (const Shape& shape : kShapes) {
      const TestWeight weight(format, shape.n, shape.k, 11);
      const DeviceWeight device = Upload(weight.weight, 0, stream_);
      const bool fp8 = format.precision == Precision::kFp8;
      // All epilogues for few rows, a walk over them for many.
      for (size_t e = 0; e < std::size(kEpilogues); ++e) {
        if (shape.m > 65 && e != static_cast<size_t>(step) % std::size(kEpilogues)) {
          continue;
        }
        ++step;
        const DType x_dtype = format.format == QuantFormat::kPlain ? format.dtype
                              : fp8 && step % 2 == 0               ? DType::kBF16
                                                                   : DType::kF16;
        Check(format, weight, device, shape.m, x_dtype, kOutputs[step % 3], kEpilogues[e],
              Accumulation::kFast);
        if (fp8 && e == 0) {
          Check(format, weight, device, shape.m, x_dtype, kOutputs[step % 3], kEpilogues[e],
                Accumulation::kPromoted);
        }
      }
    }
    std::printf("%-32s largest relative error %.2e\n", format.name.c_str(), worst_);
  }
  EXPECT_GT(runs_, 100);
}

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

using PlanFilter = std::function<bool(const sm90::Plan&)>;

// A problem with a nested weight for one kind of kernel, and what it should make.
class PlanProblem {
 public:
  PlanProblem(sm90::WeightFormat kernel, bool outliers, const Shape& shape, cudaStream_t stream,
              const TestEpilogue& epilogue = {})
      : fp8_(kernel != sm90::WeightFormat::kNested),
        format_{"nested",
                QuantFormat::kNested,
                DType::kF8E4M3,
                ScaleGranularity::kNone,
                fp8_ ? Precision::kFp8 : Precision::kFp16,
                fp8_ ? ActivationQuant::kStaticPerTensor : ActivationQuant::kNone,
                outliers},
        weight_(format_, shape.n, shape.k, 12),
        expected_(format_, weight_, shape.m, DType::kF16, DType::kF16, epilogue, 13, kGap),
        device_(Upload(weight_.weight, 0, stream)),
        gpu_(expected_, device_.weight),
        codes_(GemmWorkspaceBytes(gpu_.desc)),
        scale_(std::vector<float>(1, weight_.weight.input_scale)),
        workspace_(sm90::kWorkspaceBytes),
        y_bytes_(((shape.m - 1) * gpu_.args.y.strides[0] + expected_.y_columns) * 2) {
    expected_.args.accumulation =
        kernel == sm90::WeightFormat::kE4m3Promoted ? Accumulation::kPromoted : Accumulation::kFast;
    expected_.desc = DescribeGemm(expected_.args);
    // The op makes the codes of X in its workspace.
    Context context;
    context.device = kGpu;
    context.stream = stream;
    context.workspace = TensorView(codes_.as(), DType::kU8, {codes_.bytes()}, kGpu);
    Gemm(context, gpu_.args);
    sm90::InitWorkspace(workspace_.as(), stream);
    problem.format = kernel;
    problem.m = static_cast<int>(shape.m);
    problem.n = static_cast<int>(shape.n);
    problem.k = static_cast<int>(shape.k);
    problem.w = device_.weight.values.data;
    problem.w_lower = device_.weight.lower.data;
    problem.x = fp8_ ? codes_.as() : gpu_.args.x.data;
    problem.x_stride = fp8_ ? shape.k : gpu_.args.x.strides[0];
    if (fp8_) {
      problem.epilogue.alpha = kNestedScale;
      problem.epilogue.x_scale = scale_.as<float>();
      problem.outliers.factor = 1 / kNestedScale;
    }
    if (outliers) {
      problem.outliers.index = device_.weight.outliers.index.as<int64_t>();
      problem.outliers.value = device_.weight.outliers.value.as<float>();
      problem.outliers.count = static_cast<int>(device_.weight.outliers.size());
    }
    problem.epilogue.y = gpu_.args.y.data;
    problem.epilogue.y_stride = gpu_.args.y.strides[0];
    problem.epilogue.silu = epilogue.activation == Activation::kSilu;
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
  bool fp8_;
  TestFormat format_;
  TestWeight weight_;
  TestProblem expected_;
  DeviceWeight device_;
  GpuProblem gpu_;
  GuardedDevice codes_;
  GuardedDevice scale_;
  GuardedDevice workspace_;
  int64_t y_bytes_;
};

// Runs plans of one kind of kernel, all or one of each kernel, on a nested weight, and compares
// what they make.
void RunPlans(sm90::WeightFormat kernel, bool outliers, const Shape& shape,
              const PlanFilter& filter, bool once, cudaStream_t stream, int* count,
              const TestEpilogue& epilogue = {}) {
  int& runs = *count;
  const PlanProblem p(kernel, outliers, shape, stream, epilogue);
  std::vector<float> first;
  std::set<const void*> seen;
  for (const sm90::RankedPlan& ranked : sm90::RankPlans(p.problem, sm90::DeviceModel())) {
    if (!filter(ranked.plan)) {
      continue;
    }
    if (once && !seen.insert(ranked.plan.config->function).second) {
      continue;
    }
    p.Poison();
    sm90::Launch(ranked.plan, p.problem, stream, runs % 2 == 1);
    const std::vector<float> y = p.Y();
    SCOPED_TRACE(Name(ranked.plan));
    if (first.empty()) {
      first = y;
      p.ExpectRight(y);
    }
    // Plans add in different orders and round to FP16.
    EXPECT_LE(RelativeDifference(y, first), kernel == sm90::WeightFormat::kE4m3 ? 5e-3 : 1e-3);
    ++runs;
    if (::testing::Test::HasFailure()) {
      return;
    }
  }
}

constexpr sm90::WeightFormat kKernelFormats[] = {
    sm90::WeightFormat::kNested, sm90::WeightFormat::kE4m3, sm90::WeightFormat::kE4m3Promoted};

// Every plan of every kernel, not only the chosen ones.
TEST_F(GemmGpuTest, EveryPlan) {
  constexpr Shape kShapes[] = {{1, 272, 144},  {3, 400, 1040}, {17, 1040, 2064}, {63, 528, 1552},
                               {65, 656, 512}, {127, 272, 80}, {257, 400, 336},  {600, 144, 272}};
  // Of the many ways to split, each kernel's extremes.
  const auto filter = [](const sm90::Plan& plan) {
    const sm90::ClusterShape& c = plan.cluster;
    const bool sums = plan.parts != 1;
    return sums ? plan.raster_group == sm90::Plan().raster_group && plan.parts != 5 &&
                      plan.parts != 6
                : c.split == 1 || c.split == 3 || c.split == 8 || c.size() == 8;
  };
  int runs = 0;
  for (const sm90::WeightFormat kernel : kKernelFormats) {
    for (const Shape& shape : kShapes) {
      RunPlans(kernel, false, shape, filter, false, stream_, &runs);
      if (shape.m % 16 != 1) {
        RunPlans(kernel, true, shape, filter, false, stream_, &runs);
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
TEST_F(GemmGpuTest, EveryKernelFinishes) {
  constexpr TestEpilogue kEpilogues[] = {{Activation::kNone, true, false},
                                         {Activation::kSilu, true, true},
                                         {Activation::kSiluMul, false, true},
                                         {Activation::kNone, false, true}};
  const auto filter = [](const sm90::Plan& plan) {
    return plan.cluster.size() == 1 && plan.parts == 1;
  };
  for (const sm90::WeightFormat kernel : kKernelFormats) {
    for (const TestEpilogue& epilogue : kEpilogues) {
      int runs = 0;
      RunPlans(kernel, false, {139, 400, 336}, filter, true, stream_, &runs, epilogue);
      EXPECT_GT(runs, 10);
      if (HasFailure()) {
        return;
      }
    }
  }
}

// Tiles enough for several rounds, in which rings run on from tile to tile and warpgroups take
// turns.
TEST_F(GemmGpuTest, EveryPersistentKernelInManyRounds) {
  const auto filter = [](const sm90::Plan& plan) {
    return plan.config->family == sm90::Family::kPersistent && plan.cluster.size() <= 2 &&
           plan.parts <= 1;
  };
  for (const sm90::WeightFormat kernel : kKernelFormats) {
    int runs = 0;
    RunPlans(kernel, false, {130, 20'016, 272}, filter, false, stream_, &runs);
    EXPECT_GT(runs, 30);
    if (HasFailure()) {
      return;
    }
  }
}

// CTAs that wait for each other's sums must end wherever and whenever they start: here beside two
// more streams, one of them with the same kind of kernels.
TEST_F(GemmGpuTest, SharedTilesBesideOtherStreams) {
  const PlanProblem busy(sm90::WeightFormat::kE4m3, false, {700, 4096, 2064}, stream_);
  const PlanProblem first(sm90::WeightFormat::kNested, false, {190, 1936, 1040}, stream_);
  const PlanProblem second(sm90::WeightFormat::kNested, false, {130, 2000, 528}, stream_);
  CheckCuda(cudaDeviceSynchronize(), "problems");
  const sm90::Plan whole = sm90::PlanByName("e4m3_turns_r128_t128_k128");
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

// Each kernel of a family once, little enough for compute-sanitizer.
struct FamilyCase {
  sm90::WeightFormat format;
  sm90::Family family;
  bool clusters;
};

class KernelFamilyGpuTest : public GpuTest, public ::testing::WithParamInterface<FamilyCase> {};

TEST_P(KernelFamilyGpuTest, EveryKernelOnce) {
  const FamilyCase& param = GetParam();
  const auto filter = [&](const sm90::Plan& plan) {
    return plan.config->family == param.family && (plan.cluster.size() > 1) == param.clusters;
  };
  int runs = 0;
  RunPlans(param.format, false, {33, 272, 400}, filter, true, stream_, &runs);
  if (param.family == sm90::Family::kSplit) {
    RunPlans(param.format, true, {33, 272, 400}, filter, true, stream_, &runs);
  }
  EXPECT_GT(runs, 0);
}

INSTANTIATE_TEST_SUITE_P(
    All, KernelFamilyGpuTest, ::testing::ValuesIn([] {
      std::vector<FamilyCase> cases;
      for (const sm90::WeightFormat format : kKernelFormats) {
        for (const sm90::Family family : {sm90::Family::kSplit, sm90::Family::kPersistent}) {
          for (const bool clusters : {false, true}) {
            cases.push_back({format, family, clusters});
          }
        }
      }
      return cases;
    }()),
    [](const auto& test) {
      const FamilyCase& param = test.param;
      return std::string(param.format == sm90::WeightFormat::kNested ? "Nested"
                         : param.format == sm90::WeightFormat::kE4m3 ? "E4m3"
                                                                     : "Promoted") +
             (param.family == sm90::Family::kSplit ? "Split" : "Persistent") +
             (param.clusters ? "Clusters" : "");
    });

TEST_F(GemmGpuTest, ResidualMayBeY) {
  const TestFormat format{"nested", QuantFormat::kNested, DType::kF8E4M3, ScaleGranularity::kNone,
                          Precision::kFp16};
  const TestWeight weight(format, 272, 144, 5);
  const DeviceWeight device = Upload(weight.weight, 0, stream_);
  const TestProblem problem(format, weight, 19, DType::kF16, DType::kF16,
                            {Activation::kNone, false, true}, 6, kGap);
  GpuProblem gpu(problem, device.weight);
  const std::vector<float> expected = gpu.Run(stream_);
  CheckCuda(cudaMemcpy(gpu.args.y.data, gpu.args.residual.data, (18 * (272 + kGap) + 272) * 2,
                       cudaMemcpyDeviceToDevice),
            "copy");
  gpu.args.residual = gpu.args.y;
  Context context;
  context.device = kGpu;
  context.stream = stream_;
  CheckCuda(cudaDeviceSynchronize(), "copy");
  Gemm(context, gpu.args);
  // The bytes between Y's rows are the residual's now.
  std::vector<uint8_t> bytes((18 * (272 + kGap) + 272) * 2);
  CheckCuda(cudaDeviceSynchronize(), "gemm");
  CheckCuda(cudaMemcpy(bytes.data(), gpu.args.y.data, bytes.size(), cudaMemcpyDeviceToHost),
            "copy");
  for (int64_t i = 0; i < 19 * 272; ++i) {
    ASSERT_EQ(LoadTestElement(bytes.data() + i / 272 * (272 + kGap) * 2, DType::kF16, i % 272),
              expected[i]);
  }
}

// The rest needs no GPU: what the kernels say of descriptions that they do not run.
std::string Reason(std::string_view kernel, const GemmDesc& desc) {
  for (const GemmKernel& candidate : CudaGemmKernels()) {
    if (candidate.name.find(kernel) != std::string_view::npos) {
      return candidate.supports(desc);
    }
  }
  return "no such kernel";
}

TEST(GemmCudaSelectionTest, KernelsSayWhatTheyDoNotRun) {
  GemmDesc desc;
  desc.device = DeviceType::kCuda;
  desc.m = 4;
  desc.n = 64;
  desc.k = 64;
  desc.weight_format = QuantFormat::kNested;
  desc.x_dtype = DType::kBF16;
  desc.y_dtype = DType::kBF16;
  EXPECT_THAT(Reason("nested", desc), HasSubstr("X must be F16"));
  EXPECT_THAT(Reason("e4m3", desc), HasSubstr("at fp8"));
  EXPECT_THAT(Reason("plain", desc), HasSubstr("plain weights"));
  desc.precision = Precision::kFp8;
  EXPECT_THAT(Reason("nested", desc), HasSubstr("at fp16"));
  EXPECT_THAT(Reason("e4m3", desc), HasSubstr("must be quantized"));
  desc.activation_quant = ActivationQuant::kDynamicPerGroup;
  desc.has_outliers = true;
  EXPECT_THAT(Reason("e4m3", desc), HasSubstr("one activation scale a row"));
  desc.has_outliers = false;
  desc.k = 40000;
  EXPECT_THAT(Reason("e4m3", desc), HasSubstr("at most 32768"));
  desc.k = 64;
  desc.x_dtype = DType::kF32;
  EXPECT_THAT(Reason("e4m3", desc), HasSubstr("F16 or BF16"));
  desc.x_dtype = DType::kF16;
  desc.k = 72;
  EXPECT_THAT(Reason("e4m3", desc), HasSubstr(HasGpu() ? "multiples of 16" : "compute capability"));
  desc.device = DeviceType::kCpu;
  EXPECT_THAT(Reason("e4m3", desc), HasSubstr("CUDA tensors"));
  desc.weight_format = QuantFormat::kPlain;
  desc.precision = Precision::kFp16;
  EXPECT_THAT(Reason("plain", desc), HasSubstr("CUDA tensors"));
  desc.device = DeviceType::kCuda;
  desc.weight_dtype = DType::kF32;
  EXPECT_THAT(Reason("plain", desc), HasSubstr("F16 or BF16"));
  desc.weight_dtype = DType::kBF16;
  EXPECT_THAT(Reason("plain", desc), HasSubstr("the weight's dtype"));
}

TEST(GemmCudaSelectionTest, PlainWithoutCublasLtNamesItsRemedy) {
  GemmDesc desc;
  desc.device = DeviceType::kCuda;
  desc.weight_dtype = desc.x_dtype = DType::kF16;
  const std::string reason = Reason("plain", desc);
  EXPECT_TRUE(reason.empty() || reason.find("DUALFP_CUBLASLT") != std::string::npos) << reason;
}

TEST(GemmCudaSelectionTest, OutliersAndPromotionNarrowTheChoice) {
  sm90::GemmProblem p;
  p.m = 4096;
  p.n = 4096;
  p.k = 4096;
  p.x_stride = 4096;
  p.epilogue.y_stride = 4096;
  p.outliers.count = 1;
  const auto choose = [&p] {
    return sm90::Choose(p, sm90::DeviceModel(), {&sm90::BuiltInTable()}).plan;
  };
  EXPECT_EQ(choose().config->family, sm90::Family::kSplit);
  p.outliers.count = 0;
  p.format = sm90::WeightFormat::kE4m3Promoted;
  for (const int m : {1, 17, 300, 5000}) {
    p.m = m;
    const sm90::Plan plan = choose();
    EXPECT_EQ(plan.config->format, sm90::WeightFormat::kE4m3Promoted);
    EXPECT_THAT(Name(plan), HasSubstr("e4m3_promoted"));
  }
}

}  // namespace
}  // namespace dualfp::cuda
