// Every implementation of the elementwise ops against loops in double. Tolerances come from the
// number of roundings: kEps is half a unit in the last place of 1.

#include <gtest/gtest.h>

#include <cmath>
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

class OpsTest : public ::testing::TestWithParam<const Backend*> {
 protected:
  const OpTable& ops() const { return *GetParam()->ops; }

  ThreadPool threads_{3};
  Context context_{.threads = &threads_};
};

TEST_P(OpsTest, RmsNormOfEveryWidth) {
  for (const int64_t width : {1, 7, 8, 16, 17, 64, 65, 100, 2048, 5120}) {
    const int64_t rows = 5;
    const int64_t stride = width + 3;
    std::vector<float> x = Random(rows * stride, 1);
    const std::vector<float> weight = Random(width, 2);
    std::vector<float> y(rows * width, NAN);
    RmsNormArgs args{.x = {x.data(), DType::kF32, {rows, width}},
                     .weight = {weight.data(), DType::kF32, {width}},
                     .epsilon = 1e-5f,
                     .y = {y.data(), DType::kF32, {rows, width}}};
    args.x.strides[0] = stride;
    ops().rms_norm(context_, args);
    for (int64_t row = 0; row < rows; ++row) {
      double sum = 0;
      for (int64_t i = 0; i < width; ++i) {
        sum += double{x[row * stride + i]} * x[row * stride + i];
      }
      const double scale = 1 / std::sqrt(sum / width + 1e-5f);
      for (int64_t i = 0; i < width; ++i) {
        const double expected = x[row * stride + i] * scale * weight[i];
        // Up to `width` additions; the root halves a relative error.
        ASSERT_NEAR(y[row * width + i], expected, (width / 2.0 + 8) * kEps * std::abs(expected))
            << "width " << width << " row " << row << " column " << i;
      }
    }
  }
}

TEST_P(OpsTest, RmsNormOfHeadsInPlace) {
  const int64_t rows = 3, heads = 4, width = 20;
  const std::vector<float> before = Random(rows * 2 * heads * width, 3);
  std::vector<float> x = before;
  const std::vector<float> weight = Random(width, 4);
  TensorView view(x.data(), DType::kF32, {rows, heads, width});
  view.strides[0] = 2 * heads * width;
  ops().rms_norm(
      context_,
      {.x = view, .weight = {weight.data(), DType::kF32, {width}}, .epsilon = 1e-6f, .y = view});
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t head = 0; head < 2 * heads; ++head) {
      const float* in = before.data() + (row * 2 * heads + head) * width;
      const float* out = x.data() + (row * 2 * heads + head) * width;
      double sum = 0;
      for (int64_t i = 0; i < width; ++i) {
        sum += double{in[i]} * in[i];
      }
      for (int64_t i = 0; i < width; ++i) {
        const double expected =
            head < heads ? in[i] / std::sqrt(sum / width + 1e-6f) * weight[i] : in[i];
        ASSERT_NEAR(out[i], expected, 30 * kEps * std::abs(expected));
      }
    }
  }
}

TEST_P(OpsTest, RotaryTurnsPairsAndLeavesTheRest) {
  for (const int64_t half : {1, 4, 8, 15, 16, 32, 33}) {
    const int64_t tokens = 6, heads = 3, head_dim = 2 * half + 5;
    std::vector<float> inv_freq(2 * half);
    for (int64_t i = 0; i < half; ++i) {
      inv_freq[i] = static_cast<float>(std::pow(1e4, -double(i) / half));
      inv_freq[half + i] = inv_freq[i] / 8;
    }
    const std::vector<int32_t> position = {0, 1, 2, 511, 1000, 130000};
    const std::vector<int32_t> set = {0, 1, 0, 1, 1, 0};
    const float scale = 1.25f;
    std::vector<float> table(tokens * 2 * half);
    const TensorView cos_sin(table.data(), DType::kF32, {tokens, 2 * half});
    ops().rotary_table(context_, {.position = {position.data(), DType::kI32, {tokens}},
                                  .row = {set.data(), DType::kI32, {tokens}},
                                  .inv_freq = {inv_freq.data(), DType::kF32, {2, half}},
                                  .scale = scale,
                                  .cos_sin = cos_sin});
    const std::vector<float> before = Random(tokens * heads * head_dim, 5);
    std::vector<float> x = before;
    ops().apply_rotary(
        context_, {.cos_sin = cos_sin, .x = {x.data(), DType::kF32, {tokens, heads, head_dim}}});
    for (int64_t token = 0; token < tokens; ++token) {
      for (int64_t head = 0; head < heads; ++head) {
        const float* in = before.data() + (token * heads + head) * head_dim;
        const float* out = x.data() + (token * heads + head) * head_dim;
        for (int64_t i = 0; i < half; ++i) {
          // The angle itself is a float product, as in transformers.
          const double angle =
              static_cast<float>(position[token]) * inv_freq[set[token] * half + i];
          const double cos = scale * std::cos(angle);
          const double sin = scale * std::sin(angle);
          const double bound = 6 * kEps * scale * (std::abs(in[i]) + std::abs(in[half + i]));
          ASSERT_NEAR(out[i], in[i] * cos - in[half + i] * sin, bound);
          ASSERT_NEAR(out[half + i], in[half + i] * cos + in[i] * sin, bound);
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
  const std::vector<float> weight(20, 1.0f);
  std::vector<float> y(2 * 20);
  ops().rms_norm(context_, {.x = {x.data(), DType::kF32, {2, 20}},
                            .weight = {weight.data(), DType::kF32, {20}},
                            .y = {y.data(), DType::kF32, {2, 20}}});
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(std::isnan(y[i]), i < 20) << i;
  }
}

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
  const auto check = [&](const Weight& weight, const std::vector<float>& expected) {
    std::vector<float> y(tokens.size() * width, NAN);
    ops().embedding(context_, {.weight = &weight,
                               .token = {tokens.data(), DType::kI32, {5}},
                               .y = {y.data(), DType::kF32, {5, width}}});
    for (size_t t = 0; t < tokens.size(); ++t) {
      for (int64_t i = 0; i < width; ++i) {
        ASSERT_EQ(y[t * width + i], expected[tokens[t] * width + i]);
      }
    }
  };
  Weight weight{.n = rows, .k = width};
  weight.values = {source.data(), DType::kF32, {rows, width}};
  check(weight, source);
  weight.values = {fp16.data(), DType::kF16, {rows, width}};
  check(weight, exact16);
  weight.values = {bf16.data(), DType::kBF16, {rows, width}};
  check(weight, exact_b16);
  weight.format = QuantFormat::kNested;
  weight.values = {upper.data(), DType::kF8E4M3, {rows, width}};
  weight.lower = {lower.data(), DType::kU8, {rows, width}};
  const auto count = static_cast<int64_t>(outlier_index.size());
  weight.outliers.index = {outlier_index.data(), DType::kI64, {count}};
  weight.outliers.value = {outlier_value.data(), DType::kF32, {count}};
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
  weight.lower = {nibbles.data(), DType::kU8, {rows, (width + 1) / 2}};
  weight.scales = {shifts.data(), DType::kI8, {rows}};
  weight.outliers.index = {outlier_index.data(), DType::kI64, {remainders}};
  weight.outliers.value = {outlier_value.data(), DType::kF32, {remainders}};
  check(weight, exact_b16);
}

TEST_P(OpsTest, GatherRows) {
  const std::vector<float> x = Random(5 * 7, 10);
  const std::vector<int32_t> rows = {4, 0, 4};
  std::vector<float> y(3 * 7);
  ops().gather_rows(context_, {.x = {x.data(), DType::kF32, {5, 7}},
                               .row = {rows.data(), DType::kI32, {3}},
                               .y = {y.data(), DType::kF32, {3, 7}}});
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 7; ++j) {
      EXPECT_EQ(y[i * 7 + j], x[rows[i] * 7 + j]);
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

INSTANTIATE_TEST_SUITE_P(All, OpsTest, ::testing::ValuesIn(BackendsWithOps()),
                         [](const auto& test) { return std::string(test.param->name); });

}  // namespace
}  // namespace dualfp
