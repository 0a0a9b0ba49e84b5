// FP8 products whose X comes as codes and whose results leave as codes, and the norm that makes
// them: bit for bit what separate quantization gives.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "dualfp/base/error.h"
#include "dualfp/kernels/backend_test_util.h"
#include "dualfp/kernels/gemm_test_util.h"
#include "dualfp/numeric/fp8.h"
#include "dualfp/tensor/buffer.h"

namespace dualfp {
namespace {

std::vector<float> Random(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return normal(generator); });
  return values;
}

// Codes and scales of a problem's X, by the definition in quantize.h.
struct QuantizedX {
  explicit QuantizedX(const TestProblem& problem) {
    const int64_t m = problem.m;
    const int64_t k = problem.desc.k;
    const ActivationQuant quant = problem.desc.activation_quant;
    const bool grouped = HasGroupScales(quant);
    const int64_t group = ActivationGroupSize(quant, k);
    const int64_t groups = (k + group - 1) / group;
    codes.resize(m * k);
    scales.resize(groups * m);
    float tensor_amax = 0;
    for (const float value : problem.x_values) {
      tensor_amax = std::max(tensor_amax, std::fabs(value));
    }
    for (int64_t row = 0; row < m; ++row) {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t end = std::min(k, (g + 1) * group);
        float amax = quant == ActivationQuant::kDynamicPerTensor ? tensor_amax : 0;
        for (int64_t i = g * group; i < end; ++i) {
          amax = std::max(amax, std::fabs(problem.x_values[row * k + i]));
        }
        const float scale = quant == ActivationQuant::kStaticPerTensor
                                ? *problem.args.weight->input_scale.as<float>()
                                : GroupActivationScale(quant, amax);
        scales[g * m + row] = scale;
        for (int64_t i = g * group; i < end; ++i) {
          codes[row * k + i] = FloatToE4m3(problem.x_values[row * k + i] / scale);
        }
      }
    }
    x = ConstTensorView(codes.data(), DType::kF8E4M3, {m, k});
    x_scales = grouped ? ConstTensorView(scales.data(), DType::kF32, {groups, m})
                       : ConstTensorView(scales.data(), DType::kF32, {m});
  }

  std::vector<uint8_t> codes;
  std::vector<float> scales;
  ConstTensorView x;
  ConstTensorView x_scales;
};

TEST(QuantizedXTest, EveryKernelTakesCodesForWhatTheyStandFor) {
  int runs = 0;
  for (const TestFormat& format : TestFormats()) {
    if (format.quant == ActivationQuant::kNone || format.part_input_scales) {
      continue;
    }
    const int64_t multiple = KMultiple(format);
    // Whole groups of activations and remainders of them, odd K where the weight's groups allow it.
    for (const auto& [m, n, least_k] :
         {std::tuple{1, 33, 281}, {7, 64, 384}, {3, 17, 321}, {41, 50, 1301}}) {
      const int64_t k = (least_k + multiple - 1) / multiple * multiple;
      const TestWeight weight(format, n, k, 3);
      TestProblem problem(format, weight, m, DType::kF32, DType::kF32, {}, 4);
      const QuantizedX quantized(problem);
      for (const GemmKernel& kernel : GemmKernels()) {
        if (!kernel.supports(problem.desc).empty()) {
          continue;
        }
        const std::vector<float> expected = problem.Run(kernel, 2);
        TestProblem from_codes(format, weight, m, DType::kF32, DType::kF32, {}, 4);
        from_codes.args.x = quantized.x;
        from_codes.args.x_scales = quantized.x_scales;
        from_codes.desc = DescribeGemm(from_codes.args);
        ASSERT_EQ(kernel.supports(from_codes.desc), "") << kernel.name;
        EXPECT_EQ(from_codes.Run(kernel, 2), expected)
            << kernel.name << " " << Describe(from_codes.desc);
        ++runs;
      }
    }
  }
  EXPECT_GT(runs, 100);
}

class QuantizedArgumentsTest : public ::testing::Test {
 protected:
  TestFormat format_{"fp8",           QuantFormat::kFp8,
                     DType::kF8E4M3,  ScaleGranularity::kPerChannel,
                     Precision::kFp8, ActivationQuant::kDynamicPerToken};
  TestWeight weight_{format_, 16, 160, 3};
  ThreadPool threads_{2};
};

TEST_F(QuantizedArgumentsTest, CodesAndScalesMustBelongTogether) {
  const TestProblem problem(format_, weight_, 4, DType::kF32, DType::kF32, {}, 4);
  const QuantizedX quantized(problem);
  GemmArgs good = problem.args;
  good.x = quantized.x;
  good.x_scales = quantized.x_scales;
  EXPECT_EQ(DescribeGemm(good).x_dtype, DType::kF8E4M3);
  const auto rejects = [&](auto change) {
    GemmArgs args = good;
    change(args);
    try {
      DescribeGemm(args);
    } catch (const Error& error) {
      return error.code() == ErrorCode::kInvalidArgument;
    }
    return false;
  };
  EXPECT_TRUE(rejects([](GemmArgs& a) { a.x_scales = {}; }));
  EXPECT_TRUE(rejects([](GemmArgs& a) { a.x_scales.shape[0] = 3; }));
  EXPECT_TRUE(rejects([](GemmArgs& a) { a.x_scales.dtype = DType::kF16; }));
  EXPECT_TRUE(rejects([](GemmArgs& a) { a.x_scales.device = {DeviceType::kCuda, 0}; }));
  EXPECT_TRUE(rejects([](GemmArgs& a) { a.activation_quant = ActivationQuant::kNone; }));
  EXPECT_TRUE(rejects([](GemmArgs& a) { a.activation_quant = ActivationQuant::kDynamicPerGroup; }));
  EXPECT_TRUE(rejects([](GemmArgs& a) { a.precision = Precision::kExact; }));
  EXPECT_TRUE(rejects([&](GemmArgs& a) { a.x = problem.args.x; })) << "scales beside floats";
}

TEST_F(QuantizedArgumentsTest, RangesOfRowsTakeTheirScales) {
  const TestProblem problem(format_, weight_, 9, DType::kF32, DType::kF32, {}, 4);
  const QuantizedX quantized(problem);
  GemmArgs args = problem.args;
  const Buffer workspace = Buffer::AllocateCpu(GemmWorkspaceBytes(problem.desc));
  Context context;
  context.threads = &threads_;
  context.workspace = workspace.View(DType::kU8, {static_cast<int64_t>(workspace.size())});
  Gemm(context, args);
  std::vector<float> expected;
  const auto y = [&](std::vector<float>* values) {
    for (int64_t row = 0; row < 9; ++row) {
      const float* begin = args.y.Rows(row, row + 1).as<float>();
      values->insert(values->end(), begin, begin + 16);
    }
  };
  y(&expected);
  args.x = quantized.x;
  args.x_scales = quantized.x_scales;
  const RowRange ranges[] = {{0, 2, Precision::kFp8}, {2, 9, Precision::kFp8}};
  GemmRows(context, args, ranges);
  std::vector<float> ranged;
  y(&ranged);
  EXPECT_EQ(ranged, expected);
}

// gate_up's product, quantized for down's.
TEST_F(QuantizedArgumentsTest, AResultLeavesAsCodes) {
  for (const Activation activation : {Activation::kNone, Activation::kSiluMul}) {
    for (const ActivationQuant quant :
         {ActivationQuant::kDynamicPerToken, ActivationQuant::kStaticPerTensor,
          ActivationQuant::kDynamicPerTensor}) {
      for (const DType y_dtype : {DType::kF32, DType::kF16}) {
        TestProblem problem(format_, weight_, 5, DType::kF32, y_dtype, {activation}, 4);
        const int64_t columns = problem.y_columns;
        Context context;
        context.threads = &threads_;
        const int64_t bytes = GemmQuantizedWorkspaceBytes(problem.desc);
        const Buffer workspace = Buffer::AllocateCpu(bytes);
        context.workspace = workspace.View(DType::kU8, {bytes});
        Gemm(context, problem.args);
        std::vector<uint8_t> expected(5 * columns), codes(5 * columns);
        std::vector<float> expected_scales(5), scales(5);
        const float static_scale = 0.003f;
        QuantizeActivations(context, problem.args.y, quant, static_scale,
                            {expected.data(), DType::kF8E4M3, {5, columns}},
                            {expected_scales.data(), DType::kF32, {5}});
        GemmArgs args = problem.args;
        args.y = {};
        args.y.dtype = y_dtype;
        const QuantizedOutput output{.quant = quant,
                                     .static_scale = static_scale,
                                     .codes = {codes.data(), DType::kF8E4M3, {5, columns}},
                                     .scales = {scales.data(), DType::kF32, {5}}};
        GemmQuantized(context, args, output);
        EXPECT_EQ(codes, expected);
        EXPECT_EQ(scales, expected_scales);
        context.workspace = workspace.View(DType::kU8, {bytes - 1});
        EXPECT_THROW(GemmQuantized(context, args, output), Error);
      }
    }
  }
}

// Instruction sets differ in them.
void ForgetNanSigns(std::vector<uint8_t>* codes) {
  for (uint8_t& code : *codes) {
    code = (code & 0x7f) == 0x7f ? 0x7f : code;
  }
}

class RmsNormQuantizeTest : public ::testing::TestWithParam<const Backend*> {};

TEST_P(RmsNormQuantizeTest, EqualsTheNormAndThenTheQuantizer) {
  ThreadPool threads(3);
  const Context context{.threads = &threads};
  const OpTable& ops = *GetParam()->ops;
  for (const int64_t width : {1, 7, 16, 100, 1024, 1025, 1040, 4096, 5003}) {
    const int64_t rows = 4;
    std::vector<float> x = Random(rows * (width + 3), 1);
    std::fill_n(x.begin() + width + 3, width, 0.0f);  // a row of zeros has a scale of 1
    if (width > 5) {
      x[2 * (width + 3) + 5] = NAN;
    }
    const std::vector<float> weight = Random(width, 2);
    ConstTensorView in(x.data(), DType::kF32, {rows, width});
    in.strides[0] = width + 3;
    std::vector<float> y(rows * width);
    const TensorView normed(y.data(), DType::kF32, {rows, width});
    ops.rms_norm(context, {in, {weight.data(), DType::kF32, {width}}, 1e-5f, normed});
    for (const ActivationQuant quant :
         {ActivationQuant::kDynamicPerToken, ActivationQuant::kStaticPerTensor}) {
      std::vector<uint8_t> expected(rows * width), codes(rows * width);
      std::vector<float> expected_scales(rows), scales(rows);
      QuantizeActivations(context, normed, quant, 0.02f,
                          {expected.data(), DType::kF8E4M3, {rows, width}},
                          {expected_scales.data(), DType::kF32, {rows}});
      ops.rms_norm_quantize(context, {.x = in,
                                      .weight = {weight.data(), DType::kF32, {width}},
                                      .epsilon = 1e-5f,
                                      .quant = quant,
                                      .static_scale = 0.02f,
                                      .codes = {codes.data(), DType::kF8E4M3, {rows, width}},
                                      .scales = {scales.data(), DType::kF32, {rows}}});
      ForgetNanSigns(&codes);
      ForgetNanSigns(&expected);
      EXPECT_EQ(codes, expected) << "width " << width;
      EXPECT_EQ(scales, expected_scales) << "width " << width;
    }
  }
}

TEST(RmsNormQuantizeArgumentsTest, WrongOnesAreErrors) {
  ThreadPool threads(1);
  const Context context{.threads = &threads};
  std::vector<float> data(64);
  std::vector<uint8_t> codes(64);
  RmsNormQuantizeArgs good{.x = {data.data(), DType::kF32, {2, 16}},
                           .weight = {data.data() + 32, DType::kF32, {16}},
                           .codes = {codes.data(), DType::kF8E4M3, {2, 16}},
                           .scales = {data.data() + 48, DType::kF32, {2}}};
  EXPECT_NO_THROW(RmsNormQuantize(context, good));
  RmsNormQuantizeArgs args = good;
  args.quant = ActivationQuant::kStaticPerTensor;
  EXPECT_THROW(RmsNormQuantize(context, args), Error);
  args = good;
  args.quant = ActivationQuant::kDynamicPerTensor;
  EXPECT_THROW(RmsNormQuantize(context, args), Error);
  args = good;
  args.scales.shape[0] = 3;
  EXPECT_THROW(RmsNormQuantize(context, args), Error);
  args = good;
  args.codes.dtype = DType::kU8;
  EXPECT_THROW(RmsNormQuantize(context, args), Error);
}

INSTANTIATE_TEST_SUITE_P(All, RmsNormQuantizeTest, ::testing::ValuesIn(BackendsWithOps()),
                         [](const auto& test) { return std::string(test.param->name); });

}  // namespace
}  // namespace dualfp
