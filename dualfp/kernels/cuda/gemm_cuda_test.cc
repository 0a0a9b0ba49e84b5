// The GPU's GEMM kernels through the op, against the product in double.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "dualfp/base/error.h"
#include "dualfp/kernels/cuda/cublaslt_gemm.h"
#include "dualfp/kernels/cuda/gemm_choice.h"
#include "dualfp/kernels/cuda/gemm_gpu_problem.h"
#include "dualfp/kernels/cuda/sm90/select/choose.h"
#include "dualfp/kernels/cuda/upload.h"
#include "dualfp/kernels/gemm.h"
#include "dualfp/kernels/gemm_test_util.h"

namespace dualfp::cuda {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

bool RunsOnGpu(const TestFormat& format) {
  const bool fp8 = format.precision == Precision::kFp8;
  if (format.part_input_scales) {
    return false;
  }
  switch (format.format) {
    case QuantFormat::kPlain:
      return format.dtype != DType::kF32;
    case QuantFormat::kNested:
      return !fp8 || (format.quant != ActivationQuant::kNone &&
                      !(format.outliers && format.quant == ActivationQuant::kDynamicPerGroup));
    case QuantFormat::kNested12:
      return !fp8 || format.quant != ActivationQuant::kNone;
    case QuantFormat::kFp8:
      return fp8 && format.quant != ActivationQuant::kNone;
    default:
      return false;
  }
}

class GemmGpuTest : public OpsGpuTest {
 protected:
  void Check(const TestFormat& format, const TestWeight& weight, const DeviceWeight& device,
             int64_t m, DType x_dtype, DType y_dtype, const TestEpilogue& epilogue,
             Accumulation accumulation) {
    TestProblem problem(format, weight, m, x_dtype, y_dtype, epilogue,
                        static_cast<uint32_t>(m * 7 + 1), kGap);
    problem.args.accumulation = accumulation;
    problem.desc = DescribeGemm(problem.args);
    GpuProblem gpu(problem, device.weight);
    const std::vector<float> y = gpu.Run(*ops_);
    const double error = problem.ExpectNear(y, Tolerance(problem.desc));
    if (format.precision == Precision::kExact && y_dtype != DType::kBF16) {
      EXPECT_LE(error, 5e-4) << Describe(gpu.desc);
    }
    worst_ = std::max(worst_, error);
    EXPECT_EQ(gpu.RunCaptured(*ops_), y) << "captured, " << Describe(gpu.desc);
    ++runs_;
  }

  double worst_ = 0;
  int runs_ = 0;
};

TEST_F(GemmGpuTest, EveryFormatAtOddShapes) {
  constexpr Shape kShapes[] = {{1, 272, 144},   {3, 400, 1040}, {17, 1040, 528}, {63, 528, 1552},
                               {65, 144, 2064}, {127, 656, 80}, {257, 272, 336}, {1000, 144, 272}};
  constexpr TestEpilogue kEpilogues[] = {{},
                                         {Activation::kNone, true, false},
                                         {Activation::kNone, false, true},
                                         {Activation::kSiluMul, false, false},
                                         {Activation::kNone, true, true},
                                         {Activation::kSiluMul, true, true}};
  constexpr DType kOutputs[] = {DType::kF16, DType::kBF16, DType::kF32};
  for (const TestFormat& format : TestFormats()) {
    if (!RunsOnGpu(format)) {
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
        const bool any_x = fp8 || format.format == QuantFormat::kNested12;
        const DType x_dtype = format.format == QuantFormat::kPlain ? format.dtype
                              : any_x && step % 2 == 0             ? DType::kBF16
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

// cuBLASLt takes plain weights of sizes that our kernels refuse.
TEST_F(GemmGpuTest, PlainWeightsOfAnySize) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    const TestFormat format{"plain", QuantFormat::kPlain, dtype};
    for (const Shape& shape : {Shape{1, 200, 72}, {33, 520, 136}, {130, 24, 1000}}) {
      const TestWeight weight(format, shape.n, shape.k, 11);
      const DeviceWeight device = Upload(weight.weight, 0, stream_);
      if (const std::string why = CublasLtMissing(); !why.empty()) {
        GTEST_SKIP() << why;
      }
      for (const DType y : {dtype, DType::kF32}) {
        Check(format, weight, device, shape.m, dtype, y, {}, Accumulation::kFast);
        Check(format, weight, device, shape.m, dtype, y, {Activation::kSiluMul, true, true},
              Accumulation::kFast);
      }
    }
  }
}

TEST_F(GemmGpuTest, ResidualMayBeY) {
  const TestFormat format{"nested", QuantFormat::kNested, DType::kF8E4M3, ScaleGranularity::kNone,
                          Precision::kExact};
  const TestWeight weight(format, 272, 144, 5);
  const DeviceWeight device = Upload(weight.weight, 0, stream_);
  const TestProblem problem(format, weight, 19, DType::kF16, DType::kF16,
                            {Activation::kNone, false, true}, 6, kGap);
  GpuProblem gpu(problem, device.weight);
  const std::vector<float> expected = gpu.Run(*ops_);
  CheckCuda(cudaMemcpy(gpu.args.y.data, gpu.args.residual.data, (18 * (272 + kGap) + 272) * 2,
                       cudaMemcpyDeviceToDevice),
            "copy");
  gpu.args.residual = gpu.args.y;
  CheckCuda(cudaDeviceSynchronize(), "copy");
  const GuardedDevice workspace(GemmWorkspaceBytes(gpu.desc));
  Gemm(GpuProblem::ContextOf(*ops_, workspace), gpu.args);
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

TEST_F(GemmGpuTest, TheStreamIsTheContexts) {
  const TestFormat format{"plain", QuantFormat::kPlain, DType::kF16};
  const TestWeight weight(format, 272, 144, 5);
  const DeviceWeight device = Upload(weight.weight, 0, stream_);
  const TestProblem problem(format, weight, 3, DType::kF16, DType::kF16, {}, 6, kGap);
  const GpuProblem gpu(problem, device.weight);
  const GuardedDevice workspace(GemmWorkspaceBytes(gpu.desc));
  Context context = GpuProblem::ContextOf(*ops_, workspace);
  const std::unique_ptr<Stream> cpu = MakeStream(Device{});
  for (Stream* stream : {static_cast<Stream*>(nullptr), cpu.get()}) {
    context.stream = stream;
    EXPECT_THAT([&] { Gemm(context, gpu.args); },
                ThrowsMessage<Error>(HasSubstr("cuda:0 needs a stream of that device")));
  }
  context.device = Device{};
  EXPECT_THAT([&] { Gemm(context, gpu.args); },
              ThrowsMessage<Error>(HasSubstr("x is on cuda:0, but the context is for cpu")));
}

// The codes that the op makes of X in its workspace, handed to it as X.
TEST_F(GemmGpuTest, CodesAreTakenForWhatTheyStandFor) {
  for (const bool grouped : {false, true}) {
    const TestFormat format{
        "fp8",
        QuantFormat::kFp8,
        DType::kF8E4M3,
        grouped ? ScaleGranularity::kBlock128 : ScaleGranularity::kPerChannel,
        Precision::kFp8,
        grouped ? ActivationQuant::kDynamicPerGroup : ActivationQuant::kDynamicPerToken};
    for (const Shape& shape : {Shape{1, 272, 144}, {37, 400, 1040}, {300, 528, 256}}) {
      const TestWeight weight(format, shape.n, shape.k, 11);
      const DeviceWeight device = Upload(weight.weight, 0, stream_);
      const TestProblem problem(format, weight, shape.m, DType::kF16, DType::kF16, {}, 6, kGap);
      GpuProblem gpu(problem, device.weight);
      const GuardedDevice workspace(GemmWorkspaceBytes(gpu.desc));
      const Context context = GpuProblem::ContextOf(*ops_, workspace);
      Gemm(context, gpu.args);
      const std::vector<float> expected = gpu.Y();
      const E4m3Workspace layout(gpu.desc);
      GemmArgs args = gpu.args;
      args.x = ConstTensorView(workspace.as(), DType::kF8E4M3, {shape.m, shape.k}, kGpu);
      const void* scales = workspace.as<uint8_t>() + layout.scales_offset;
      args.x_scales = ConstTensorView(scales, DType::kF32, {shape.m}, kGpu);
      if (grouped) {
        args.x_scales =
            ConstTensorView(scales, DType::kF32, {(shape.k + 127) / 128, shape.m}, kGpu);
        args.x_scales.strides[0] = layout.group_stride;
      }
      EXPECT_EQ(GemmWorkspaceBytes(DescribeGemm(args)), 0);
      gpu.PoisonY();
      Gemm(context, args);
      EXPECT_EQ(gpu.Y(), expected) << Describe(gpu.desc);
    }
  }
}

// The rest needs no GPU: what the kernels say of descriptions that they do not run.
std::string Reason(std::string_view kernel, const GemmDesc& desc) {
  for (const GemmKernel& candidate : GemmKernels()) {
    if (candidate.name.find(kernel) != std::string_view::npos) {
      return candidate.supports(desc);
    }
  }
  return "no such kernel";
}

TEST(GemmCudaSelectionTest, KernelsSayWhatTheyDoNotRun) {
  GemmDesc desc;
  desc.device = kGpu;
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
  EXPECT_THAT(Reason("e4m3", desc), HasSubstr("F16, BF16 or F8_E4M3"));
  desc.x_dtype = DType::kF16;
  desc.k = 72;
  EXPECT_THAT(Reason("e4m3", desc), HasSubstr(HasGpu() ? "multiples of 16" : "compute capability"));
  desc.device = Device{};
  EXPECT_THAT(Reason("e4m3", desc), HasSubstr("CUDA tensors"));
  desc.weight_format = QuantFormat::kPlain;
  desc.precision = Precision::kExact;
  EXPECT_THAT(Reason("plain", desc), HasSubstr("CUDA tensors"));
  desc.device = kGpu;
  desc.weight_dtype = DType::kF32;
  EXPECT_THAT(Reason("plain", desc), HasSubstr("F16 or BF16"));
  desc.weight_dtype = DType::kBF16;
  EXPECT_THAT(Reason("plain", desc), HasSubstr("the weight's dtype"));
}

TEST(GemmCudaSelectionTest, PlainWithoutCublasLtNamesItsRemedy) {
  GemmDesc desc;
  desc.device = kGpu;
  desc.weight_dtype = desc.x_dtype = DType::kF16;
  const std::string reason = Reason("cublaslt", desc);
  EXPECT_TRUE(reason.empty() || reason.find("DUALFP_CUBLASLT") != std::string::npos) << reason;
}

TEST(GemmCudaSelectionTest, PlainWeightsNeedTheirOwnTypeAndHopperOrCublasLt) {
  GemmDesc desc;
  desc.device = kGpu;
  desc.m = 4;
  desc.n = desc.k = 64;
  desc.weight_dtype = desc.x_dtype = desc.y_dtype = DType::kBF16;
  EXPECT_THAT(Reason("plain_any_any_sm90", desc), HasSubstr(HasGpu() ? "" : "compute capability"));
  desc.n = 72;
  EXPECT_THAT(Reason("plain_any_any_sm90", desc),
              HasSubstr(HasGpu() ? "multiples of 16" : "compute capability"));
  for (const char* kernel : {"plain_any_any_sm90", "cublaslt"}) {
    GemmDesc other = desc;
    other.x_dtype = DType::kF16;
    EXPECT_THAT(Reason(kernel, other), HasSubstr("the weight's dtype")) << kernel;
  }
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
