// What Gemm() promises beyond the numbers: which kernel runs, ranges of rows, errors.

#include "dualfp/kernels/gemm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "dualfp/base/error.h"
#include "dualfp/base/testing/scoped_env.h"
#include "dualfp/kernels/gemm_test_util.h"
#include "dualfp/tensor/buffer.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class GemmTest : public ::testing::Test {
 protected:
  GemmTest() : weight_(format_, 6, 32, 1), pool_(2) { context_.threads = &pool_; }

  // Sizes the workspace for `args`.
  void Prepare(const GemmArgs& args) {
    const int64_t bytes = GemmWorkspaceBytes(DescribeGemm(args));
    workspace_ = Buffer::AllocateCpu(bytes);
    context_.workspace = workspace_.View(DType::kU8, {bytes});
  }

  TestFormat format_ = {"nested", QuantFormat::kNested, DType::kF8E4M3};
  TestWeight weight_;
  ThreadPool pool_;
  Buffer workspace_;
  Context context_;
};

TEST_F(GemmTest, RunsTheSelectedKernel) {
  TestProblem problem(format_, weight_, 5, DType::kF32, DType::kF32, {}, 2);
  const std::vector<float> expected = problem.Run(SelectGemmKernel(problem.desc), 1);
  Prepare(problem.args);
  for (int round = 0; round < 2; ++round) {
    Gemm(context_, problem.args);
    for (int64_t i = 0; i < 30; ++i) {
      EXPECT_EQ(problem.args.y.Rows(i / 6, i / 6 + 1).as<float>()[i % 6], expected[i]);
    }
  }
}

TEST_F(GemmTest, ForcedKernelRunsOrSaysWhyNot) {
  const TestProblem problem(format_, weight_, 5, DType::kF32, DType::kF32, {}, 2);
  {
    const ScopedEnv forced("DUALFP_KERNEL", "gemm_any_any_any_reference");
    EXPECT_EQ(SelectGemmKernel(problem.desc).name, "gemm_any_any_any_reference");
  }
  {
    const ScopedEnv forced("DUALFP_KERNEL", "gemm_of_dreams");
    EXPECT_THAT([&] { SelectGemmKernel(problem.desc); },
                ThrowsMessage<Error>(HasSubstr("gemm_any_any_any_reference")));
  }
  for (const GemmKernel& kernel : GemmKernels()) {
    if (!kernel.supports(problem.desc).empty()) {
      const ScopedEnv forced("DUALFP_KERNEL", std::string(kernel.name).c_str());
      EXPECT_THAT([&] { SelectGemmKernel(problem.desc); },
                  ThrowsMessage<Error>(HasSubstr("cannot run")));
    }
  }
}

TEST_F(GemmTest, NoKernelForADeviceListsTheReasons) {
  GemmDesc desc = TestProblem(format_, weight_, 5, DType::kF32, DType::kF32, {}, 2).desc;
  desc.device.type = DeviceType::kCuda;
  EXPECT_THAT([&] { SelectGemmKernel(desc); },
              ThrowsMessage<Error>(HasSubstr("runs on the CPU only")));
  EXPECT_THAT(GemmUnsupported(desc), HasSubstr("runs on the CPU only"));
}

TEST_F(GemmTest, MixedRowsEqualSeparateCalls) {
  TestProblem problem(format_, weight_, 9, DType::kF32, DType::kF32, {}, 2);
  TestProblem fp16(format_, weight_, 9, DType::kF32, DType::kF32, {}, 2);
  TestProblem fp8(format_, weight_, 9, DType::kF32, DType::kF32, {}, 2);
  fp8.args.precision = Precision::kFp8;
  fp8.args.activation_quant = ActivationQuant::kDynamicPerToken;
  fp8.desc = DescribeGemm(fp8.args);
  const std::vector<float> y16 = fp16.Run(SelectGemmKernel(fp16.desc), 1);
  const std::vector<float> y8 = fp8.Run(SelectGemmKernel(fp8.desc), 1);
  EXPECT_NE(y16, y8);

  Prepare(fp16.args);
  const int64_t bytes = std::max(GemmWorkspaceBytes(fp16.desc), GemmWorkspaceBytes(fp8.desc));
  workspace_ = Buffer::AllocateCpu(bytes);
  context_.workspace = workspace_.View(DType::kU8, {bytes});
  problem.args.activation_quant = ActivationQuant::kDynamicPerToken;
  const RowRange ranges[] = {
      {0, 4, Precision::kFp8}, {4, 4, Precision::kFp8}, {4, 9, Precision::kExact}};
  GemmRows(context_, problem.args, ranges);
  for (int64_t i = 0; i < 54; ++i) {
    EXPECT_EQ(problem.args.y.Rows(i / 6, i / 6 + 1).as<float>()[i % 6], i / 6 < 4 ? y8[i] : y16[i]);
  }

  for (const std::vector<RowRange>& bad :
       {std::vector<RowRange>{{0, 4}}, {{1, 9}}, {{0, 5}, {4, 9}}, {{0, 10}}, {{0, 4}, {5, 9}}}) {
    EXPECT_THROW(GemmRows(context_, problem.args, bad), Error);
  }
}

TEST_F(GemmTest, NoRowsIsNoWork) {
  TestProblem problem(format_, weight_, 1, DType::kF32, DType::kF32, {}, 2);
  problem.args.x = problem.args.x.Rows(0, 0);
  problem.args.y = problem.args.y.Rows(0, 0);
  Prepare(problem.args);
  EXPECT_NO_THROW(Gemm(context_, problem.args));
}

TEST_F(GemmTest, RejectsInconsistentArguments) {
  const TestProblem good(format_, weight_, 4, DType::kF32, DType::kF32,
                         {Activation::kNone, true, true}, 2);
  EXPECT_NO_THROW(DescribeGemm(good.args));
  Weight weight = weight_.weight;
  float scale = 1.0f;
  int64_t index = 3;
  using Change = std::function<void(GemmArgs&)>;
  const std::vector<std::pair<const char*, Change>> changes = {
      {"no weight", [](GemmArgs& a) { a.weight = nullptr; }},
      {"x is", [](GemmArgs& a) { a.x.shape[1] = 31; }},
      {"x is", [](GemmArgs& a) { a.x.dtype = DType::kF64; }},
      {"x is", [](GemmArgs& a) { a.x.data = nullptr; }},
      {"x is", [](GemmArgs& a) { a.x.strides[1] = 2; }},
      {"x is", [](GemmArgs& a) { a.x.strides[0] = 31; }},
      {"x is", [](GemmArgs& a) { a.x.rank = 1; }},
      {"y is", [](GemmArgs& a) { a.y.shape[0] = 3; }},
      {"y is", [](GemmArgs& a) { a.y.dtype = DType::kU8; }},
      {"y is", [](GemmArgs& a) { a.activation = Activation::kSiluMul; }},
      {"bias is", [](GemmArgs& a) { a.bias.dtype = DType::kF16; }},
      {"bias is", [](GemmArgs& a) { a.bias.shape[0] = 5; }},
      {"residual is", [](GemmArgs& a) { a.residual.dtype = DType::kF16; }},
      {"residual is", [](GemmArgs& a) { a.residual.shape[1] = 5; }},
      {"one device",
       [](GemmArgs& a) {
         a.y.device = {DeviceType::kCuda, 0};
       }},
      {"fp4", [](GemmArgs& a) { a.precision = Precision::kFp4; }},
      {"input_scale",
       [&](GemmArgs& a) {
         weight.input_scale = {};
         a.weight = &weight;
         a.precision = Precision::kFp8;
         a.activation_quant = ActivationQuant::kStaticPerTensor;
       }},
      {"input_scale is",
       [&](GemmArgs&) { weight.input_scale = ConstTensorView(&scale, DType::kF32, {2}); }},
      {"global_scale is",
       [&](GemmArgs&) { weight.global_scale = ConstTensorView(&scale, DType::kF16, {1}); }},
      {"2 parts of a weight of 6 rows",
       [&](GemmArgs&) {
         weight.parts = {.count = 2, .first_row = {0, 6, INT32_MAX}};
       }},
      {"3 parts", [&](GemmArgs&) { weight.parts = {.count = 3, .interleaved = 1}; }},
      {"lower plane", [&](GemmArgs&) { weight.lower = {}; }},
      {"upper plane", [&](GemmArgs&) { weight.values.shape[0] = 5; }},
      {"weight is", [&](GemmArgs&) { weight.n = 0; }},
      {"outliers",
       [&](GemmArgs&) {
         weight.outliers.index = ConstTensorView(&index, DType::kI64, {1});
         weight.outliers.value = ConstTensorView(&scale, DType::kF16, {1});
       }},
      {"U8[6, 16]", [&](GemmArgs&) { weight.format = QuantFormat::kNvfp4; }},
      {"one scale per 32", [&](GemmArgs&) { weight.format = QuantFormat::kMxfp8; }},
      {"plain weight",
       [&](GemmArgs&) {
         weight.format = QuantFormat::kPlain;
         weight.values.dtype = DType::kF64;
       }},
      {"fp8 weight needs", [&](GemmArgs&) { weight.format = QuantFormat::kFp8; }},
      {"weight scales",
       [&](GemmArgs&) {
         weight.format = QuantFormat::kFp8;
         weight.scale_granularity = ScaleGranularity::kPerChannel;
         weight.scales = ConstTensorView(&scale, DType::kF32, {1});
       }},
  };
  for (const auto& [message, change] : changes) {
    GemmArgs args = good.args;
    weight = weight_.weight;
    if (args.weight != nullptr) {
      args.weight = &weight;
    }
    change(args);
    EXPECT_THAT([&] { DescribeGemm(args); }, ThrowsMessage<Error>(HasSubstr(message))) << message;
  }
  GemmArgs args = good.args;
  EXPECT_THAT([&] { Gemm(context_, args); }, ThrowsMessage<Error>(HasSubstr("workspace")));
  Prepare(args);
  context_.threads = nullptr;
  EXPECT_THAT([&] { Gemm(context_, args); }, ThrowsMessage<Error>(HasSubstr("thread pool")));
}

}  // namespace
}  // namespace dualfp
