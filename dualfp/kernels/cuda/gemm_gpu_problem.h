// A GEMM test problem on the GPU, for the tests of the GPU's GEMM kernels.

#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "dualfp/kernels/cuda/gpu_test_util.h"
#include "dualfp/kernels/device.h"
#include "dualfp/kernels/gemm.h"
#include "dualfp/kernels/gemm_test_util.h"

namespace dualfp::cuda {

inline constexpr Device kGpu{DeviceType::kCuda, 0};
inline constexpr int64_t kGap = 8;  // elements between rows

// For tests of ops.
class OpsGpuTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (stream_ != nullptr) {
      ops_ = WrapStream(kGpu, stream_);
    }
  }
  void TearDown() override {
    ops_.reset();
    GpuTest::TearDown();
  }

  std::unique_ptr<Stream> ops_;
};

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
  std::vector<float> Run(Stream& stream) {
    const GuardedDevice workspace(GemmWorkspaceBytes(desc));
    y_.Poison();
    Gemm(ContextOf(stream, workspace), args);
    return Y();
  }

  // The same, captured and then launched twice.
  std::vector<float> RunCaptured(Stream& stream) {
    const GuardedDevice workspace(GemmWorkspaceBytes(desc));
    const Context context = ContextOf(stream, workspace);
    const std::unique_ptr<Graph> graph = Capture(stream, [&] { Gemm(context, args); });
    graph->Launch();
    stream.Synchronize();
    y_.Poison();
    graph->Launch();
    return Y();
  }

  void PoisonY() { y_.Poison(); }

  static Context ContextOf(Stream& stream, const GuardedDevice& workspace) {
    Context context;
    context.device = kGpu;
    context.stream = &stream;
    context.workspace = TensorView(workspace.as(), DType::kU8, {workspace.bytes()}, kGpu);
    return context;
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
inline TestTolerance Tolerance(const GemmDesc& desc) {
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

struct Shape {
  int64_t m, n, k;
};

}  // namespace dualfp::cuda
