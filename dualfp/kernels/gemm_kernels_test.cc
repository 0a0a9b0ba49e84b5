// Every kernel against the product in double, on every instruction set.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "dualfp/base/cpu_features.h"
#include "dualfp/base/testing/scoped_env.h"
#include "dualfp/kernels/cpu/gemm_amx_model.h"
#include "dualfp/kernels/cpu/gemm_cpu.h"
#include "dualfp/kernels/gemm.h"
#include "dualfp/kernels/gemm_test_util.h"
#include "dualfp/numeric/nested.h"
#include "dualfp/tensor/buffer.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;

struct Shape {
  int64_t m;
  int64_t n;
  int64_t k;
};

// Tails of every loop: rows of direct and tile loops, columns of units and strips, K within and
// across groups and blocks.
constexpr Shape kShapes[] = {{1, 1, 1},    {2, 3, 16},    {3, 16, 17},    {8, 17, 63},
                             {17, 63, 64}, {64, 64, 129}, {65, 129, 257}, {1, 257, 1000},
                             {4, 25, 513}, {5, 49, 1100}, {9, 47, 2080},  {131, 50, 600}};

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// AMX is seldom there, so that its loops also run on a model of its instructions. (Where the
// kernels of BF16 dot products run, which take the same operands.)
#if defined(__x86_64__)
template <bool kNested>
struct ModelAmx {
  static constexpr cpu::CpuGemm kGemm = {
      &cpu::kModelAmxE4m3GemmInner,  nullptr, &cpu::kAvx512RowInner,
      kNested ? kNestedScale : 1.0f, false,   cpu::kMaxDirectRows};
  static constexpr std::string_view kSibling =
      kNested ? "gemm_nested8_e4m3_any_avx512bf16_4x6" : "gemm_fp8_e4m3_any_avx512bf16_4x6";

  static std::string Supports(const GemmDesc& desc) {
    return std::find_if(GemmKernels().begin(), GemmKernels().end(),
                        [](const GemmKernel& kernel) { return kernel.name == kSibling; })
        ->supports(desc);
  }
  static int64_t WorkspaceBytes(const GemmDesc& desc) {
    return cpu::CpuGemmWorkspaceBytes(kGemm, desc);
  }
  static void Run(const Context& context, const GemmDesc& desc, const GemmArgs& args) {
    cpu::RunCpuGemm(kGemm, context, desc, args);
  }
};

constexpr std::array kModelKernels = {
    GemmKernel{"gemm_nested8_e4m3_any_amxmodel_32x32", ModelAmx<true>::Supports,
               ModelAmx<true>::WorkspaceBytes, ModelAmx<true>::Run},
    GemmKernel{"gemm_fp8_e4m3_any_amxmodel_32x32", ModelAmx<false>::Supports,
               ModelAmx<false>::WorkspaceBytes, ModelAmx<false>::Run},
};
#else
constexpr std::array<GemmKernel, 0> kModelKernels;
#endif

// Every kernel of this machine with every format that it multiplies.
struct Case {
  const GemmKernel* kernel;
  const TestFormat* format;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const TestFormat& format : TestFormats()) {
    const TestWeight weight(format, 16, RoundUp(32, KMultiple(format)), 1);
    const TestProblem problem(format, weight, 2, DType::kF32, DType::kF32, {}, 1);
    for (const std::span<const GemmKernel> kernels :
         {GemmKernels(), std::span<const GemmKernel>(kModelKernels)}) {
      for (const GemmKernel& kernel : kernels) {
        if (kernel.supports(problem.desc).empty()) {
          cases.push_back({&kernel, &format});
        }
      }
    }
  }
  return cases;
}

class GemmKernelTest : public ::testing::TestWithParam<Case> {
 protected:
  const GemmKernel& kernel() const { return *GetParam().kernel; }
  const TestFormat& format() const { return *GetParam().format; }
};

TEST_P(GemmKernelTest, MatchesTheProductInDouble) {
  uint32_t seed = 1;
  for (const Shape& shape : kShapes) {
    const int64_t k = RoundUp(shape.k, KMultiple(format()));
    const TestWeight weight(format(), shape.n, k, seed);
    TestProblem problem(format(), weight, shape.m, DType::kF32, DType::kF32, {}, seed);
    problem.ExpectNear(problem.Run(kernel(), 2));
    ++seed;
  }
}

TEST_P(GemmKernelTest, MatchesWithEveryEpilogueAndType) {
  uint32_t seed = 100;
  for (const Shape& shape : {Shape{3, 34, 96}, Shape{11, 74, 160}}) {
    const TestWeight weight(format(), shape.n, RoundUp(shape.k, KMultiple(format())), seed);
    for (const Activation activation : {Activation::kNone, Activation::kSiluMul}) {
      for (const bool bias : {false, true}) {
        for (const bool residual : {false, true}) {
          for (const DType x_dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
            for (const DType y_dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
              TestProblem problem(format(), weight, shape.m, x_dtype, y_dtype,
                                  {activation, bias, residual}, ++seed);
              problem.ExpectNear(problem.Run(kernel(), 1));
            }
          }
        }
      }
    }
  }
}

// A row's result is the same in any batch, at any place, with any number of threads.
TEST_P(GemmKernelTest, RowsDoNotDependOnEachOther) {
  const bool independent =
      kernel().row_invariant && format().quant != ActivationQuant::kDynamicPerTensor;
  constexpr int64_t kRows = 70;
  for (const Shape& shape : {Shape{0, 53, 192}, Shape{0, 29, 1632}}) {
    const TestWeight weight(format(), shape.n, RoundUp(shape.k, KMultiple(format())), 7);
    TestProblem whole(format(), weight, kRows, DType::kF32, DType::kF32, {}, 9);
    const std::vector<float> expected = whole.Run(kernel(), 2);
    EXPECT_EQ(whole.Run(kernel(), 1), expected);
    EXPECT_EQ(whole.Run(kernel(), 3), expected);
    if (!independent) {
      continue;
    }
    const ConstTensorView x = whole.args.x;
    const TensorView y = whole.args.y;
    for (const int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 17, 31, 33, 64}) {
      const int64_t begin = (rows * 5) % (kRows - rows);
      whole.args.x = x.Rows(begin, begin + rows);
      whole.args.y = y.Rows(0, rows);
      whole.m = rows;
      whole.desc = DescribeGemm(whole.args);
      const std::vector<float> part = whole.Run(kernel(), static_cast<int>(1 + rows % 3));
      EXPECT_TRUE(std::equal(part.begin(), part.end(), expected.begin() + begin * shape.n))
          << rows << " rows";
    }
  }
}

// Non-finite activations reach their own row only.
TEST_P(GemmKernelTest, NonFiniteActivationsStayInTheirRow) {
  const TestWeight weight(format(), 37, 192, 3);
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    TestProblem problem(format(), weight, 10, DType::kF32, DType::kF32, {}, 4);
    const std::vector<float> clean = problem.Run(kernel(), 2);
    auto* row = static_cast<float*>(const_cast<void*>(problem.args.x.Rows(4, 5).data));
    row[70] = value;
    const std::vector<float> y = problem.Run(kernel(), 2);
    const bool per_tensor = format().quant == ActivationQuant::kDynamicPerTensor;
    const bool saturates = format().quant == ActivationQuant::kStaticPerTensor && std::isinf(value);
    for (int64_t i = 0; i < static_cast<int64_t>(y.size()); ++i) {
      if (i / 37 == 4) {
        EXPECT_EQ(std::isfinite(y[i]), saturates) << i;
      } else if (!per_tensor) {
        EXPECT_EQ(y[i], clean[i]) << i;
      } else {
        EXPECT_EQ(std::isnan(y[i]), std::isinf(value)) << i;
      }
    }
  }
}

// A workspace for the largest batch serves every smaller one.
TEST_P(GemmKernelTest, WorkspaceGrowsWithRows) {
  if (kernel().workspace_bytes == nullptr) {
    return;
  }
  const TestWeight weight(format(), 19, 64, 3);
  GemmDesc desc = TestProblem(format(), weight, 1, DType::kF16, DType::kF16, {}, 4).desc;
  for (const bool outliers : {false, true}) {
    desc.has_outliers = outliers;
    int64_t largest = 0;
    for (desc.m = 1; desc.m <= 300; ++desc.m) {
      const int64_t bytes = kernel().workspace_bytes(desc);
      EXPECT_GE(bytes, largest) << desc.m << " rows";
      largest = bytes;
    }
  }
}

TEST_P(GemmKernelTest, ZeroRowsGiveTheBias) {
  const TestWeight weight(format(), 19, 64, 3);
  TestProblem problem(format(), weight, 3, DType::kF32, DType::kF32, {Activation::kNone, true}, 4);
  for (const int64_t row : {0, 2}) {
    std::fill_n(static_cast<float*>(const_cast<void*>(problem.args.x.Rows(row, row + 1).data)), 64,
                0.0f);
  }
  const std::vector<float> y = problem.Run(kernel(), 1);
  for (int64_t column = 0; column < 19; ++column) {
    EXPECT_EQ(y[column], problem.args.bias.as<float>()[column]);
    EXPECT_EQ(y[2 * 19 + column], problem.args.bias.as<float>()[column]);
  }
}

TEST_P(GemmKernelTest, ResidualMayBeY) {
  const TestWeight weight(format(), 50, RoundUp(96, KMultiple(format())), 3);
  TestProblem problem(format(), weight, 12, DType::kF32, DType::kF16,
                      {Activation::kNone, false, true}, 4);
  const std::vector<float> expected = problem.Run(kernel(), 2);
  ThreadPool pool(2);
  const Buffer workspace = Buffer::AllocateCpu(kernel().workspace_bytes(problem.desc));
  Context context;
  context.threads = &pool;
  context.workspace = workspace.View(DType::kU8, {static_cast<int64_t>(workspace.size())});
  for (int64_t row = 0; row < 12; ++row) {
    std::copy_n(problem.args.residual.Rows(row, row + 1).as<uint16_t>(), 50,
                problem.args.y.Rows(row, row + 1).as<uint16_t>());
  }
  problem.args.residual = problem.args.y;
  kernel().run(context, problem.desc, problem.args);
  for (int64_t i = 0; i < 12 * 50; ++i) {
    EXPECT_EQ(LoadTestElement(problem.args.y.Rows(i / 50, i / 50 + 1).data, DType::kF16, i % 50),
              expected[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, GemmKernelTest, ::testing::ValuesIn(Cases()), [](const auto& test) {
  return std::string(test.param.kernel->name) + "__" + test.param.format->name;
});

#if defined(__x86_64__)

// The instructions sum as their model does.
TEST(AmxTest, EqualsItsModelBitForBit) {
  if (DetectCpuIsa() < CpuIsa::kAmx) {
    GTEST_SKIP() << "this machine has no AMX";
  }
  const TestFormat format = {"nested_fp8",    QuantFormat::kNested,
                             DType::kF8E4M3,  ScaleGranularity::kNone,
                             Precision::kFp8, ActivationQuant::kDynamicPerToken};
  for (const Shape& shape : kShapes) {
    const TestWeight weight(format, shape.n, shape.k, 5);
    TestProblem problem(format, weight, shape.m, DType::kF32, DType::kF32, {}, 6);
    const GemmKernel& kernel = SelectGemmKernel(problem.desc);
    EXPECT_THAT(std::string(kernel.name), HasSubstr("_amx_"));
    EXPECT_EQ(problem.Run(kernel, 2), problem.Run(kModelKernels[0], 2)) << Describe(problem.desc);
  }
}

#endif

class IsaTest : public ::testing::TestWithParam<const char*> {};

TEST_P(IsaTest, NestedEqualsPlainBitForBit) {
  const ScopedEnv isa("DUALFP_CPU", GetParam());
  const TestFormat plain = {"plain", QuantFormat::kPlain, DType::kF16};
  for (const bool outliers : {false, true}) {
    const TestFormat nested = {
        "nested",          QuantFormat::kNested,   DType::kF8E4M3, ScaleGranularity::kNone,
        Precision::kExact, ActivationQuant::kNone, outliers};
    for (const Shape& shape : kShapes) {
      const TestWeight nested_weight(nested, shape.n, shape.k, 5);
      // The same weights as FP16.
      const std::vector<double> values = nested_weight.Values(Precision::kExact);
      TestWeight plain_weight(plain, shape.n, shape.k, 5);
      for (size_t i = 0; i < values.size(); ++i) {
        StoreTestElement(const_cast<void*>(plain_weight.weight.values.data), DType::kF16,
                         static_cast<int64_t>(i), static_cast<float>(values[i]));
      }
      TestProblem a(nested, nested_weight, shape.m, DType::kF32, DType::kF32, {}, 6);
      TestProblem b(plain, plain_weight, shape.m, DType::kF32, DType::kF32, {}, 6);
      EXPECT_EQ(a.Run(SelectGemmKernel(a.desc), 2), b.Run(SelectGemmKernel(b.desc), 2))
          << Describe(a.desc);
    }
  }
}

// Without remainders: the planes alone, whose values are BF16.
TEST_P(IsaTest, Nested12EqualsPlainBf16BitForBit) {
  const ScopedEnv isa("DUALFP_CPU", GetParam());
  const TestFormat plain = {"plain", QuantFormat::kPlain, DType::kBF16};
  const TestFormat nested = {"nested12", QuantFormat::kNested12, DType::kF8E4M3};
  for (const Shape& shape : kShapes) {
    TestWeight nested_weight(nested, shape.n, shape.k, 5);
    std::vector<double> values = nested_weight.Values(Precision::kExact);
    const OutlierList remainders = std::exchange(nested_weight.weight.outliers, {});
    for (int64_t i = 0; i < remainders.size(); ++i) {
      values[remainders.index.as<int64_t>()[i]] -= remainders.value.as<float>()[i];
    }
    TestWeight plain_weight(plain, shape.n, shape.k, 5);
    for (size_t i = 0; i < values.size(); ++i) {
      const auto value = static_cast<float>(values[i]);
      ASSERT_EQ(StoreTestElement(const_cast<void*>(plain_weight.weight.values.data), DType::kBF16,
                                 static_cast<int64_t>(i), value),
                value);
    }
    TestProblem a(nested, nested_weight, shape.m, DType::kF32, DType::kF32, {}, 6);
    TestProblem b(plain, plain_weight, shape.m, DType::kF32, DType::kF32, {}, 6);
    EXPECT_EQ(a.Run(SelectGemmKernel(a.desc), 2), b.Run(SelectGemmKernel(b.desc), 2))
        << Describe(a.desc);
  }
}

// Rows of the identity give the weights back, remainders included, which are below any tolerance.
TEST_P(IsaTest, Nested12HoldsEveryBitOfItsWeights) {
  const ScopedEnv isa("DUALFP_CPU", GetParam());
  const TestFormat nested = {"nested12", QuantFormat::kNested12, DType::kF8E4M3};
  for (const auto& [n, k] : {std::pair{30, 201}, {131, 1100}}) {
    const TestWeight weight(nested, n, k, 8);
    ASSERT_GT(weight.weight.outliers.size(), k / 40);
    const std::vector<double> values = weight.Values(Precision::kExact);
    for (const DType x_dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const int m : {1, 3, 70}) {
        for (int first = 0; first + m <= k; first += std::max(m, 67)) {
          TestProblem problem(nested, weight, m, x_dtype, DType::kF32, {}, 6);
          for (int64_t row = 0; row < m; ++row) {
            void* x = const_cast<void*>(problem.args.x.Rows(row, row + 1).data);
            for (int64_t i = 0; i < k; ++i) {
              StoreTestElement(x, x_dtype, i, i == first + row ? 1.0f : 0.0f);
            }
          }
          const std::vector<float> y = problem.Run(SelectGemmKernel(problem.desc), 2);
          for (int64_t i = 0; i < m * n; ++i) {
            ASSERT_EQ(y[i], values[i % n * k + first + i / n]) << i << " " << first;
          }
        }
      }
    }
  }
}

TEST_P(IsaTest, SelectsAKernelOfTheInstructionSet) {
  const ScopedEnv isa("DUALFP_CPU", GetParam());
  const TestFormat plain = {"plain", QuantFormat::kPlain, DType::kF16};
  const TestWeight weight(plain, 8, 32, 5);
  const TestProblem problem(plain, weight, 1, DType::kF32, DType::kF32, {}, 6);
  const std::string name(SelectGemmKernel(problem.desc).name);
  const std::string wanted = GetParam();
  if (wanted == "scalar") {
    EXPECT_THAT(name, HasSubstr("reference"));
  } else if (DetectCpuIsa() != CpuIsa::kScalar) {
    EXPECT_THAT(
        name, HasSubstr(wanted != "avx2" && DetectCpuIsa() >= CpuIsa::kAvx512 ? "avx512" : "avx2"));
  }
}

INSTANTIATE_TEST_SUITE_P(All, IsaTest,
                         ::testing::Values("scalar", "avx2", "avx512", "avx512bf16", "amx"));

}  // namespace
}  // namespace dualfp
