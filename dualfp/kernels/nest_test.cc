#include "dualfp/kernels/nest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>

#include "dualfp/base/error.h"
#include "dualfp/kernels/gemm_test_util.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp8.h"
#include "dualfp/numeric/nested.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class NestTest : public ::testing::TestWithParam<const char*> {
 protected:
  NestTest() { setenv("DUALFP_CPU", GetParam(), 1); }
  ~NestTest() override { unsetenv("DUALFP_CPU"); }

  // Source, planes and outliers; buffers end at guards.
  struct Nested {
    Nested(DType dtype, const std::vector<float>& values)
        : size(static_cast<int64_t>(values.size())),
          source(size * DTypeSize(dtype)),
          upper_bytes(size),
          lower_bytes(size),
          view(source.as<char>(), dtype, {size}),
          upper(upper_bytes.as<char>(), DType::kF8E4M3, {size}),
          lower(lower_bytes.as<char>(), DType::kU8, {size}) {
      for (int64_t i = 0; i < size; ++i) {
        StoreTestElement(source.as<char>(), dtype, i, values[i]);
      }
    }

    NestReport Run(ThreadPool& pool, int64_t max_outliers = int64_t{1} << 40) {
      return Nest(pool, "layer.weight", view, upper, lower, max_outliers, &outliers);
    }

    std::vector<uint16_t> Merged(ThreadPool& pool) const {
      const GuardedBuffer out(size * 2);
      Unnest(pool, upper, lower, outliers.View(), TensorView(out.as<char>(), DType::kF16, {size}));
      return {out.as<uint16_t>(), out.as<uint16_t>() + size};
    }

    int64_t size;
    GuardedBuffer source;
    GuardedBuffer upper_bytes;
    GuardedBuffer lower_bytes;
    TensorView view;
    TensorView upper;
    TensorView lower;
    OutlierBuffers outliers;
  };

  ThreadPool pool_{3};
};

// Every finite FP16 code, in an order that mixes outliers with the rest.
TEST_P(NestTest, EveryFp16WeightSurvives) {
  std::vector<uint16_t> codes;
  for (uint32_t code = 0; code < 0x10000; ++code) {
    if ((code & 0x7c00) != 0x7c00) {
      codes.push_back(static_cast<uint16_t>(code));
    }
  }
  std::shuffle(codes.begin(), codes.end(), std::mt19937(1));
  std::vector<float> values;
  for (const uint16_t code : codes) {
    values.push_back(Fp16ToFloat(code));
  }
  Nested nested(DType::kF16, values);
  const NestReport report = nested.Run(pool_);
  EXPECT_EQ(report.elements, nested.size);
  EXPECT_EQ(report.rounded, 0);
  int64_t outliers = 0;
  for (int64_t i = 0; i < nested.size; ++i) {
    const float w = values[i];
    const float clamped = std::clamp(w, -1.75f, 1.75f);
    // What FP8 mode multiplies is the E4M3 encoding of 256 w.
    EXPECT_EQ(nested.upper.as<uint8_t>()[i],
              FloatToE4m3(clamped * 256) | (std::signbit(w) ? 0x80 : 0));
    if (w != clamped) {
      ASSERT_LT(outliers, static_cast<int64_t>(nested.outliers.index.size()));
      EXPECT_EQ(nested.outliers.index[outliers], i);
      EXPECT_EQ(nested.outliers.value[outliers], w - clamped);
      ++outliers;
    }
  }
  EXPECT_EQ(report.outliers, outliers);
  EXPECT_EQ(nested.Merged(pool_), codes);
  EXPECT_NO_THROW(
      CheckNested(pool_, "layer.weight", nested.upper, nested.lower, nested.outliers.View()));
}

TEST_P(NestTest, CountsRoundedWeights) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    std::mt19937 random(2);
    std::vector<float> values(70001);
    int64_t rounded = 0;
    double largest = 0;
    for (float& value : values) {
      // Magnitudes from 2^-26 to 2^1: some underflow, some are outliers.
      value = std::ldexp(static_cast<float>(random() % 1024 + 1024) / 1024,
                         -static_cast<int>(random() % 27));
      value = random() % 2 == 0 ? value : -value;
      if (dtype == DType::kBF16) {
        value = Bf16ToFloat(FloatToBf16(value));
      }
      const float exact = Fp16ToFloat(FloatToFp16(value));
      if (exact != value) {
        ++rounded;
        largest = std::max<double>(largest, std::fabs((value - exact) / value));
      }
    }
    Nested nested(dtype, values);
    const NestReport report = nested.Run(pool_);
    EXPECT_EQ(report.rounded, rounded);
    EXPECT_DOUBLE_EQ(report.largest_relative_error, largest);
    const std::vector<uint16_t> merged = nested.Merged(pool_);
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(merged[i], FloatToFp16(values[i]));
    }
  }
}

TEST_P(NestTest, EverySizeIsHandled) {
  for (int64_t size = 0; size <= 200; ++size) {
    std::vector<float> values(size);
    for (int64_t i = 0; i < size; ++i) {
      values[i] = static_cast<float>(i - 100) / 64;
    }
    for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
      Nested nested(dtype, values);
      const NestReport report = nested.Run(pool_);
      EXPECT_EQ(report.outliers, static_cast<int64_t>(nested.outliers.index.size()));
      const std::vector<uint16_t> merged = nested.Merged(pool_);
      for (int64_t i = 0; i < size; ++i) {
        EXPECT_EQ(merged[i], FloatToFp16(values[i])) << DTypeName(dtype) << " " << i;
      }
    }
  }
}

// BF16 and F32 reach beyond FP16; such a weight keeps its own value.
TEST_P(NestTest, WeightsBeyondFp16AreOutliers) {
  Nested nested(DType::kF32, {1.0f, 1e6f, -3e38f, 0.5f});
  const NestReport report = nested.Run(pool_);
  EXPECT_EQ(report.outliers, 2);
  EXPECT_EQ(report.rounded, 0);
  EXPECT_EQ(nested.outliers.value[0], 1e6f - 1.75f);
  EXPECT_EQ(nested.outliers.value[1], -3e38f + 1.75f);
}

TEST_P(NestTest, StopsAtTooManyOutliers) {
  std::vector<float> values(1000, 2.0f);
  Nested nested(DType::kF16, values);
  EXPECT_EQ(nested.Run(pool_, 1000).outliers, 1000);
  EXPECT_EQ(nested.outliers.index.size(), 1000u);
  EXPECT_GT(nested.Run(pool_, 999).outliers, 999);
  EXPECT_TRUE(nested.outliers.index.empty());
}

TEST_P(NestTest, RejectsNonFiniteWeights) {
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    for (const int64_t at : {0, 63, 64, 250}) {
      std::vector<float> values(251, 0.25f);
      values[at] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_THAT([&] { Nested(dtype, values).Run(pool_); },
                  ThrowsMessage<Error>(AllOf(HasSubstr("layer.weight: element "),
                                             HasSubstr(std::to_string(at)), HasSubstr("NaN"))));
      values[at] = -std::numeric_limits<float>::infinity();
      EXPECT_THAT([&] { Nested(dtype, values).Run(pool_); },
                  ThrowsMessage<Error>(HasSubstr("infinite")));
    }
  }
}

// Exactly the pairs that some eligible weight splits into are valid.
TEST_P(NestTest, CheckFindsImpossiblePairs) {
  std::vector<bool> possible(0x10000);
  for (uint32_t code = 0; code < 0x10000; ++code) {
    if (NestedEligible(static_cast<uint16_t>(code))) {
      const NestedBytes bytes = NestedSplit(static_cast<uint16_t>(code));
      possible[bytes.upper << 8 | bytes.lower] = true;
    }
  }
  Nested nested(DType::kF16, std::vector<float>(129, 0.5f));
  nested.Run(pool_);
  for (uint32_t pair = 0; pair < 0x10000; ++pair) {
    const int64_t at = pair % 129;
    const uint8_t upper = nested.upper.as<uint8_t>()[at];
    const uint8_t lower = nested.lower.as<uint8_t>()[at];
    nested.upper.as<uint8_t>()[at] = static_cast<uint8_t>(pair >> 8);
    nested.lower.as<uint8_t>()[at] = static_cast<uint8_t>(pair);
    const auto check = [&] { CheckNested(pool_, "w", nested.upper, nested.lower, {}); };
    if (possible[pair]) {
      EXPECT_NO_THROW(check()) << pair;
    } else {
      EXPECT_THAT(check, ThrowsMessage<Error>(HasSubstr("w: element " + std::to_string(at))));
    }
    nested.upper.as<uint8_t>()[at] = upper;
    nested.lower.as<uint8_t>()[at] = lower;
  }
}

TEST_P(NestTest, CheckFindsImpossibleOutliers) {
  Nested nested(DType::kF16, {0.5f, 3.0f, -4.0f, 1.75f});
  nested.Run(pool_);
  const auto check = [&] {
    CheckNested(pool_, "w", nested.upper, nested.lower, nested.outliers.View());
  };
  EXPECT_NO_THROW(check());
  const OutlierBuffers good = nested.outliers;
  nested.outliers.index = {1, 1};
  EXPECT_THAT(check, ThrowsMessage<Error>(HasSubstr("ascend")));
  nested.outliers.index = {1, 4};
  EXPECT_THAT(check, ThrowsMessage<Error>(HasSubstr("below 4")));
  nested.outliers.index = {-1, 2};
  EXPECT_THAT(check, ThrowsMessage<Error>(HasSubstr("ascend")));
  nested.outliers.index = {0, 2};
  EXPECT_THAT(check, ThrowsMessage<Error>(HasSubstr("does not extend")));
  nested.outliers = good;
  nested.outliers.value[1] = 1.0f;
  EXPECT_THAT(check, ThrowsMessage<Error>(HasSubstr("does not extend")));
  nested.outliers.value[1] = -std::numeric_limits<float>::infinity();
  EXPECT_THAT(check, ThrowsMessage<Error>(HasSubstr("does not extend")));
}

TEST_P(NestTest, RejectsWrongPlanes) {
  Nested nested(DType::kF16, {0.5f, 1.0f});
  TensorView short_plane = nested.upper;
  short_plane.shape[0] = 1;
  OutlierBuffers outliers;
  EXPECT_THROW(Nest(pool_, "w", nested.view, short_plane, nested.lower, 0, &outliers), Error);
  EXPECT_THROW(Nest(pool_, "w", nested.view, nested.lower, nested.upper, 0, &outliers), Error);
  EXPECT_THROW(Nest(pool_, "w", nested.upper, nested.upper, nested.lower, 0, &outliers), Error);
  EXPECT_THROW(Unnest(pool_, nested.upper, nested.lower, {}, nested.upper), Error);
}

INSTANTIATE_TEST_SUITE_P(All, NestTest, ::testing::Values("scalar", "avx2", "avx512"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace dualfp
