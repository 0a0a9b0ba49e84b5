// Every implementation of the elementwise ops against loops in double. Tolerances come from the
// number of roundings: kEps is half a unit in the last place of 1.

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "dualfp/kernels/backend_test_util.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/nested.h"
#include "dualfp/numeric/nested12.h"

namespace dualfp {
namespace {

constexpr double kEps = 5.96e-8;

std::vector<float> Random(int64_t count, uint32_t seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) {
    value = normal(generator);
  }
  return values;
}

class OpsTest : public ::testing::TestWithParam<OpsUnderTest> {
 protected:
  const OpTable& ops() const { return *GetParam().backend->ops; }
  DType activation() const { return GetParam().activation; }
  Context& context() { return device_.context(); }
  // Random values as hidden states hold them.
  std::vector<float> RandomStates(int64_t count, uint32_t seed) const {
    return RoundedAs(activation(), Random(count, seed));
  }
  // What is stored may be off by: the rounding, beside `bound` in F32.
  double Tolerance(double expected, double bound) const {
    const DType dtype = activation();
    return bound + (dtype == DType::kF32 ? 0.0
                                         : UnitRoundoff(dtype) * (std::abs(expected) + bound) +
                                               SubnormalRoundoff(dtype));
  }

  OpsDevice device_{*GetParam().backend};
};

TEST_P(OpsTest, RmsNormOfEveryWidth) {
  for (const int64_t width : {1, 7, 8, 16, 17, 64, 65, 100, 2048, 5120, 8192, 8200, 16384}) {
    for (const int64_t gap : {3, 8}) {
      const int64_t rows = 5;
      const int64_t stride = width + gap;
      const std::vector<float> x = RandomStates(rows * stride, 1);
      const std::vector<float> weight = Random(width, 2);
      TensorView view = device_.PutFloats(x, activation(), {rows, width});
      view.strides[0] = stride;
      const TensorView y =
          device_.PutFloats(std::vector<float>(rows * width, NAN), activation(), {rows, width});
      ops().rms_norm(context(), {.x = view,
                                 .weight = device_.PutFloats(weight, DType::kF32, {width}),
                                 .epsilon = 1e-5f,
                                 .y = y});
      const std::vector<float> got = device_.GetFloats(y);
      for (int64_t row = 0; row < rows; ++row) {
        double sum = 0;
        for (int64_t i = 0; i < width; ++i) {
          sum += double{x[row * stride + i]} * x[row * stride + i];
        }
        const double scale = 1 / std::sqrt(sum / width + 1e-5f);
        for (int64_t i = 0; i < width; ++i) {
          const double expected = x[row * stride + i] * scale * weight[i];
          // Up to `width` additions; the root halves a relative error.
          const double bound = (width / 2.0 + 8) * kEps * std::abs(expected);
          ASSERT_NEAR(got[row * width + i], expected, Tolerance(expected, bound))
              << "width " << width << " row " << row << " column " << i;
        }
      }
    }
  }
}

TEST_P(OpsTest, RmsNormOfHeadsInPlace) {
  for (const int64_t width : {20, 64, 128}) {
    const int64_t rows = 3, heads = 4;
    const std::vector<float> before = RandomStates(rows * 2 * heads * width, 3);
    const std::vector<float> weight = Random(width, 4);
    TensorView view = device_.PutFloats(before, activation(), {rows, heads, width});
    view.strides[0] = 2 * heads * width;
    ops().rms_norm(context(), {.x = view,
                               .weight = device_.PutFloats(weight, DType::kF32, {width}),
                               .epsilon = 1e-6f,
                               .y = view});
    const std::vector<float> after = device_.GetFloats(view, static_cast<int64_t>(before.size()));
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t head = 0; head < 2 * heads; ++head) {
        const float* in = before.data() + (row * 2 * heads + head) * width;
        const float* out = after.data() + (row * 2 * heads + head) * width;
        double sum = 0;
        for (int64_t i = 0; i < width; ++i) {
          sum += double{in[i]} * in[i];
        }
        for (int64_t i = 0; i < width; ++i) {
          const double expected =
              head < heads ? in[i] / std::sqrt(sum / width + 1e-6f) * weight[i] : in[i];
          ASSERT_NEAR(out[i], expected,
                      Tolerance(expected, (width / 2.0 + 20) * kEps * std::abs(expected)));
        }
      }
    }
  }
}

TEST_P(OpsTest, RmsNormQuantizeIsTheNormsQuantization) {
  if (GetParam().backend->device == DeviceType::kCuda && activation() == DType::kF32) {
    GTEST_SKIP() << "a GPU quantizes 16-bit states";
  }
  const int64_t rows = 6, width = 272;
  const std::vector<float> x = RandomStates(rows * width, 31);
  const std::vector<float> weight = Random(width, 32);
  for (const float fixed : {0.0f, 0.013f}) {
    const TensorView codes =
        device_.Put(std::vector<uint8_t>(rows * width, 0x7f), DType::kF8E4M3, {rows, width});
    const TensorView scales = device_.PutFloats(std::vector<float>(rows, NAN), DType::kF32, {rows});
    ops().rms_norm_quantize(context(), {.x = device_.PutFloats(x, activation(), {rows, width}),
                                        .weight = device_.PutFloats(weight, DType::kF32, {width}),
                                        .epsilon = 1e-5f,
                                        .quant = fixed == 0 ? ActivationQuant::kDynamicPerToken
                                                            : ActivationQuant::kStaticPerTensor,
                                        .static_scale = fixed,
                                        .codes = codes,
                                        .scales = scales});
    const std::vector<uint8_t> got = device_.Get<uint8_t>(codes);
    const std::vector<float> got_scales = device_.GetFloats(scales);
    for (int64_t row = 0; row < rows; ++row) {
      double sum = 0, largest = 0;
      for (int64_t i = 0; i < width; ++i) {
        sum += double{x[row * width + i]} * x[row * width + i];
      }
      const double norm = 1 / std::sqrt(sum / width + 1e-5f);
      for (int64_t i = 0; i < width; ++i) {
        largest = std::max(largest, std::abs(x[row * width + i] * norm * weight[i]));
      }
      const double scale = fixed == 0 ? largest / 448 : fixed;
      ASSERT_NEAR(got_scales[row], scale, 1e-5 * scale);
      for (int64_t i = 0; i < width; ++i) {
        const double expected =
            std::clamp(x[row * width + i] * norm * weight[i] / scale, -448.0, 448.0);
        const int64_t in = i % 16;  // a GPU's order (docs/formats.md)
        const int64_t at = GetParam().backend->device == DeviceType::kCuda
                               ? i - in + in % 8 / 2 * 4 + in / 8 * 2 + in % 2
                               : i;
        ASSERT_NEAR(E4m3ToFloat(got[row * width + at]), expected,
                    (UnitRoundoff(DType::kF8E4M3) + 1e-5) * std::abs(expected) + 0x1p-10);
      }
    }
  }
}

struct RotaryCase {
  int64_t half;
  int64_t head_dim;
};

TEST_P(OpsTest, RotaryTurnsPairsAndLeavesTheRest) {
  for (const RotaryCase& shape : {RotaryCase{1, 7},
                                  {4, 13},
                                  {8, 16},
                                  {15, 35},
                                  {16, 37},
                                  {32, 64},
                                  {33, 71},
                                  {64, 128},
                                  {16, 80}}) {
    const int64_t half = shape.half, head_dim = shape.head_dim;
    const int64_t tokens = 6, heads = 3;
    std::vector<float> inv_freq(2 * half);
    for (int64_t i = 0; i < half; ++i) {
      inv_freq[i] = static_cast<float>(std::pow(1e4, -double(i) / half));
      inv_freq[half + i] = inv_freq[i] / 8;
    }
    const std::vector<int32_t> position = {0, 1, 2, 511, 1000, 130000};
    const std::vector<int32_t> set = {0, 1, 0, 1, 1, 0};
    const float scale = 1.25f;
    const TensorView cos_sin = device_.PutFloats(std::vector<float>(tokens * 2 * half, NAN),
                                                 DType::kF32, {tokens, 2 * half});
    ops().rotary_table(context(), {.position = device_.PutInts(position),
                                   .row = device_.PutInts(set),
                                   .inv_freq = device_.PutFloats(inv_freq, DType::kF32, {2, half}),
                                   .scale = scale,
                                   .cos_sin = cos_sin});
    const std::vector<float> before = RandomStates(tokens * heads * head_dim, 5);
    const TensorView x = device_.PutFloats(before, activation(), {tokens, heads, head_dim});
    ops().apply_rotary(context(), {.cos_sin = cos_sin, .x = x});
    const std::vector<float> after = device_.GetFloats(x);
    for (int64_t token = 0; token < tokens; ++token) {
      for (int64_t head = 0; head < heads; ++head) {
        const float* in = before.data() + (token * heads + head) * head_dim;
        const float* out = after.data() + (token * heads + head) * head_dim;
        for (int64_t i = 0; i < half; ++i) {
          // The angle itself is a float product, as in transformers.
          const double angle =
              static_cast<float>(position[token]) * inv_freq[set[token] * half + i];
          const double cos = scale * std::cos(angle);
          const double sin = scale * std::sin(angle);
          const double bound = 6 * kEps * scale * (std::abs(in[i]) + std::abs(in[half + i]));
          const double low = in[i] * cos - in[half + i] * sin;
          const double high = in[half + i] * cos + in[i] * sin;
          ASSERT_NEAR(out[i], low, Tolerance(low, bound));
          ASSERT_NEAR(out[half + i], high, Tolerance(high, bound));
        }
        for (int64_t i = 2 * half; i < head_dim; ++i) {
          ASSERT_EQ(out[i], in[i]);
        }
      }
    }
  }
}

TEST_P(OpsTest, NanStaysInItsRow) {
  std::vector<float> x(2 * 20, 1.0f);
  x[3] = NAN;
  const TensorView y = device_.PutFloats(std::vector<float>(2 * 20), activation(), {2, 20});
  ops().rms_norm(context(),
                 {.x = device_.PutFloats(x, activation(), {2, 20}),
                  .weight = device_.PutFloats(std::vector<float>(20, 1.0f), DType::kF32, {20}),
                  .y = y});
  const std::vector<float> got = device_.GetFloats(y);
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(std::isnan(got[i]), i < 20) << i;
  }
}

// A table in every format, as its values and as hidden states round them.
TEST_P(OpsTest, EmbeddingIsExactInEveryFormat) {
  const int64_t rows = 9, width = 37;
  const std::vector<float> source = Random(rows * width, 9);
  std::vector<uint16_t> fp16(rows * width), bf16(rows * width);
  std::vector<uint8_t> upper(rows * width), lower(rows * width);
  std::vector<int64_t> outlier_index;
  std::vector<float> outlier_value, exact16(rows * width), exact_b16(rows * width);
  for (int64_t i = 0; i < rows * width; ++i) {
    fp16[i] = FloatToFp16(source[i]);
    bf16[i] = FloatToBf16(source[i]);
    exact16[i] = Fp16ToFloat(fp16[i]);
    exact_b16[i] = Bf16ToFloat(bf16[i]);
    uint16_t clamped = fp16[i];
    if (!NestedEligible(clamped)) {
      clamped = static_cast<uint16_t>((clamped & 0x8000) | kNestedMaxBits);
      outlier_index.push_back(i);
      outlier_value.push_back(exact16[i] - Fp16ToFloat(clamped));
    }
    const NestedBytes bytes = NestedSplit(clamped);
    upper[i] = bytes.upper;
    lower[i] = bytes.lower;
  }
  ASSERT_GT(outlier_index.size(), 3u);
  const std::vector<int32_t> tokens = {8, 0, 3, 3, 7};
  const TensorView token = device_.PutInts(tokens);
  const auto check = [&](const Weight& weight, const std::vector<float>& expected) {
    const TensorView y =
        device_.PutFloats(std::vector<float>(tokens.size() * width, NAN), activation(), {5, width});
    ops().embedding(context(), {.weight = &weight, .token = token, .y = y});
    const std::vector<float> got = device_.GetFloats(y);
    for (size_t t = 0; t < tokens.size(); ++t) {
      for (int64_t i = 0; i < width; ++i) {
        ASSERT_EQ(got[t * width + i], RoundedAs(activation(), expected[tokens[t] * width + i]));
      }
    }
  };
  Weight weight{.n = rows, .k = width};
  weight.values = device_.Put(source, DType::kF32, {rows, width});
  check(weight, source);
  weight.values = device_.Put(fp16, DType::kF16, {rows, width});
  check(weight, exact16);
  weight.values = device_.Put(bf16, DType::kBF16, {rows, width});
  check(weight, exact_b16);
  weight.format = QuantFormat::kNested;
  weight.values = device_.Put(upper, DType::kF8E4M3, {rows, width});
  weight.lower = device_.Put(lower, DType::kU8, {rows, width});
  const auto count = static_cast<int64_t>(outlier_index.size());
  weight.outliers.index = device_.Put(outlier_index, DType::kI64, {count});
  weight.outliers.value = device_.Put(outlier_value, DType::kF32, {count});
  check(weight, exact16);

  std::vector<uint8_t> nibbles(rows * (width + 1) / 2);
  std::vector<int8_t> shifts(rows);
  outlier_index.clear();
  outlier_value.clear();
  for (int64_t i = 0; i < rows * width; ++i) {
    const int64_t row = i / width, column = i % width;
    bf16[i] = FloatToBf16(i % 3 == 0 ? source[i] * 1e-5f : source[i]);
    exact_b16[i] = Bf16ToFloat(bf16[i]);
    shifts[row] = static_cast<int8_t>(-3 - row);
    const Nested12Weight split = Nested12Split(bf16[i], shifts[row], column % 2 != 0);
    upper[i] = split.bits.upper;
    nibbles[row * ((width + 1) / 2) + column / 2] |=
        static_cast<uint8_t>(split.bits.nibble << (column % 2 == 0 ? 0 : 4));
    if (split.remainder != 0.0f) {
      outlier_index.push_back(i);
      outlier_value.push_back(split.remainder);
    }
  }
  const auto remainders = static_cast<int64_t>(outlier_index.size());
  ASSERT_GT(remainders, 50);
  weight.format = QuantFormat::kNested12;
  weight.values = device_.Put(upper, DType::kF8E4M3, {rows, width});
  weight.lower = device_.Put(nibbles, DType::kU8, {rows, (width + 1) / 2});
  weight.scales = device_.Put(shifts, DType::kI8, {rows});
  weight.outliers.index = device_.Put(outlier_index, DType::kI64, {remainders});
  weight.outliers.value = device_.Put(outlier_value, DType::kF32, {remainders});
  check(weight, exact_b16);
}

TEST_P(OpsTest, GatherRows) {
  for (const int64_t width : {7, 64}) {
    const std::vector<float> x = RandomStates(5 * width, 10);
    const std::vector<int32_t> rows = {4, 0, 4};
    const TensorView y = device_.PutFloats(std::vector<float>(3 * width), activation(), {3, width});
    ops().gather_rows(context(), {.x = device_.PutFloats(x, activation(), {5, width}),
                                  .row = device_.PutInts(rows),
                                  .y = y});
    const std::vector<float> got = device_.GetFloats(y);
    for (int64_t i = 0; i < 3; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        EXPECT_EQ(got[i * width + j], x[rows[i] * width + j]);
      }
    }
  }
}

TEST_P(OpsTest, ResolveTokensTakesWhatWasDrawn) {
  const TensorView token = device_.PutInts({1, 2, 3, 4, 5});
  ops().resolve_tokens(context(), {.source = device_.PutInts({-1, 2, 0, -1, 1}),
                                   .previous = device_.PutInts({70, -1, 90}),
                                   .token = token});
  EXPECT_EQ(device_.Get<int32_t>(token), (std::vector<int32_t>{1, 90, 70, 4, 0}));
}

TEST_P(OpsTest, CopyKvBlocksInEveryPlane) {
  for (const int64_t bytes : {32, 36}) {
    const int64_t planes = 3, blocks = 5;
    std::vector<uint8_t> before(planes * blocks * bytes);
    std::iota(before.begin(), before.end(), 0);
    const TensorView view = device_.Put(before, DType::kU8, {planes, blocks, bytes});
    ops().copy_kv_blocks(context(),
                         {.copies = device_.PutInts({4, 1, 0, 3}, {2, 2}), .planes = view});
    const std::vector<uint8_t> after = device_.Get<uint8_t>(view);
    for (int64_t i = 0; i < planes * blocks * bytes; ++i) {
      const int64_t block = i / bytes % blocks;
      const int64_t from = block == 1 ? 4 : block == 3 ? 0 : block;
      EXPECT_EQ(after[i], before[i + (from - block) * bytes]);
    }
  }
}

TEST(OpsApiTest, WrongArgumentsAreErrorsThatNameThem) {
  ThreadPool threads(1);
  const Context context{.threads = &threads};
  std::vector<float> data(64);
  const TensorView view(data.data(), DType::kF32, {4, 16});
  const TensorView narrow(data.data(), DType::kF32, {4, 8});
  const TensorView half(data.data(), DType::kF16, {4, 16});
  const TensorView weight(data.data(), DType::kF32, {16});
  EXPECT_NO_THROW(RmsNorm(context, {.x = view, .weight = weight, .y = view}));
  EXPECT_THROW(RmsNorm(context, {.x = view, .weight = weight, .y = narrow}), Error);
  EXPECT_THROW(RmsNorm(context, {.x = half, .weight = weight, .y = view}), Error);
  try {
    ApplyRotary(context, {.cos_sin = view, .x = {data.data(), DType::kF32, {4, 1, 8}}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "apply_rotary: rotates 16 elements of heads of 8");
  }
}

INSTANTIATE_TEST_SUITE_P(All, OpsTest, ::testing::ValuesIn(AllOpsUnderTest()),
                         [](const auto& test) { return test.param.Name(); });

}  // namespace
}  // namespace dualfp
