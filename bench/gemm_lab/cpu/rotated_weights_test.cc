#include "bench/gemm_lab/cpu/rotated_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "dualfp/kernels/gemm.h"
#include "dualfp/numeric/fp16.h"

namespace dualfp {
namespace {

TEST(CpuFormatsTest, EverySchemeOfTheTableHasItsName) {
  const std::vector<std::string> names = CpuFormatNames();
  EXPECT_EQ(std::set(names.begin(), names.end()).size(), names.size());
  for (const NamedScheme& named : WeightSchemes()) {
    if (named.scheme.has_value() && *named.scheme != kPlainWeights) {
      const CpuFormat* format = FindCpuFormat(named.name);
      ASSERT_NE(format, nullptr) << named.name;
      EXPECT_EQ(format->scheme, *named.scheme);
    }
  }
  EXPECT_EQ(FindCpuFormat("f17"), nullptr);
}

// Products of every format, against double arithmetic on the weights before they were stored.
TEST(RotatedWeightsTest, HoldTheRandomWeights) {
  constexpr int64_t kN = 37;
  constexpr int64_t kK = 256;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const Buffer fp16 = Buffer::AllocateCpu(kN * kK * 2);
  auto* weights = static_cast<uint16_t*>(fp16.data());
  for (int64_t i = 0; i < kN * kK; ++i) {
    weights[i] = FloatToFp16(0.05f * normal(random)) & 0xfff8;
  }
  std::vector<float> x(kK);
  std::generate(x.begin(), x.end(), [&] { return normal(random); });
  std::vector<double> expected(kN);
  double norm = 0;
  for (int64_t row = 0; row < kN; ++row) {
    for (int64_t i = 0; i < kK; ++i) {
      expected[row] += double{Fp16ToFloat(weights[row * kK + i])} * x[i];
    }
    norm += expected[row] * expected[row];
  }
  ThreadPool threads(2);
  for (const std::string& name : CpuFormatNames()) {
    const CpuFormat& format = *FindCpuFormat(name);
    const RotatedWeights rotated(threads, format, fp16, kN, kK, 1);
    ASSERT_EQ(rotated.size(), 1);
    std::vector<float> y(kN);
    GemmArgs args;
    args.x = ConstTensorView(x.data(), DType::kF32, {1, kK});
    args.y = TensorView(y.data(), DType::kF32, {1, kN});
    args.weight = &rotated[7];
    args.precision = format.precision;
    args.activation_quant = format.quant;
    const int64_t bytes = GemmWorkspaceBytes(DescribeGemm(args));
    const Buffer workspace = Buffer::AllocateCpu(bytes);
    Context context;
    context.threads = &threads;
    context.workspace = workspace.View(DType::kU8, {bytes});
    Gemm(context, args);
    double error = 0;
    for (int64_t row = 0; row < kN; ++row) {
      error += (y[row] - expected[row]) * (y[row] - expected[row]);
    }
    // E4M3 has three bits of mantissa, E2M1 one: relative errors of at most 2^-4 and 2^-2 a weight.
    const double bound = format.precision == Precision::kExact                      ? 1e-6
                         : GetQuantFormatInfo(format.scheme.format).codec.bits == 4 ? 0.25
                                                                                    : 0.0625;
    EXPECT_LT(std::sqrt(error / norm), bound) << name;
  }
}

TEST(RotatedWeightsTest, AreAsManyAsNoCacheHolds) {
  constexpr int64_t kN = 64;
  constexpr int64_t kK = 64;
  const Buffer fp16 = Buffer::AllocateCpu(kN * kK * 2);
  std::fill_n(static_cast<uint16_t*>(fp16.data()), kN * kK, uint16_t{0});
  ThreadPool threads(1);
  for (const auto& [name, bytes] : {std::pair{"f32", 16384}, {"nested12", 6144}, {"fp8", 4096}}) {
    const RotatedWeights rotated(threads, *FindCpuFormat(name), fp16, kN, kK, 10 * bytes);
    EXPECT_EQ(rotated.size(), 10) << name;
    EXPECT_EQ(&rotated[10], &rotated[0]);
    EXPECT_NE(rotated[1].values.data, rotated[0].values.data);
  }
}

}  // namespace
}  // namespace dualfp
