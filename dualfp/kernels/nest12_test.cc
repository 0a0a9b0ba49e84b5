#include "dualfp/kernels/nest12.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "dualfp/base/error.h"
#include "dualfp/base/testing/scoped_env.h"
#include "dualfp/kernels/gemm_test_util.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/nested12.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

// Source, planes and remainders; buffers end at guards.
struct Nested {
  Nested(DType dtype, int64_t n_in, const std::vector<float>& values)
      : n(n_in),
        k(static_cast<int64_t>(values.size()) / n),
        source(n * k * DTypeSize(dtype)),
        upper(n * k),
        nibbles(n * NibbleBytes(k)),
        shifts(n),
        view(source.as<char>(), dtype, {n, k}),
        planes{.upper = {upper.as<char>(), DType::kF8E4M3, {n, k}},
               .nibble = {nibbles.as<char>(), DType::kU8, {n, NibbleBytes(k)}},
               .shift = {shifts.as<char>(), DType::kI8, {n}}} {
    for (int64_t i = 0; i < n * k; ++i) {
      StoreTestElement(source.as<char>(), dtype, i, values[i]);
    }
    std::memset(nibbles.as<char>(), 0xff, n * NibbleBytes(k));
  }

  NestReport Run(ThreadPool& pool, int64_t max_remainders = int64_t{1} << 40) {
    return Nest12(pool, "layer.weight", view, planes, max_remainders, &remainders);
  }

  ConstNested12Planes View() const { return {planes.upper, planes.nibble, planes.shift}; }

  std::vector<uint16_t> Merged(ThreadPool& pool) const {
    const GuardedBuffer out(n * k * 2);
    Unnest12(pool, View(), remainders.View(), TensorView(out.as<char>(), DType::kBF16, {n, k}));
    return {out.as<uint16_t>(), out.as<uint16_t>() + n * k};
  }

  void Check(ThreadPool& pool) const {
    CheckNested12(pool, "layer.weight", View(), remainders.View());
  }

  int64_t n;
  int64_t k;
  GuardedBuffer source;
  GuardedBuffer upper;
  GuardedBuffer nibbles;
  GuardedBuffer shifts;
  TensorView view;
  Nested12Planes planes;
  OutlierBuffers remainders;
};

class Nest12Test : public ::testing::TestWithParam<const char*> {
 protected:
  const ScopedEnv isa_{"DUALFP_CPU", GetParam()};
  ThreadPool pool_{3};
};

// The planes against the scalar definition, and the weights again.
void ExpectSplit(const Nested& nested, ThreadPool& pool) {
  const auto* bf16 = nested.source.as<uint16_t>();
  std::vector<int64_t> index;
  std::vector<float> value;
  for (int64_t r = 0; r < nested.n; ++r) {
    uint16_t largest = 0;
    for (int64_t i = 0; i < nested.k; ++i) {
      largest = std::max<uint16_t>(largest, bf16[r * nested.k + i] & 0x7fff);
    }
    const int shift = nested.shifts.as<int8_t>()[r];
    ASSERT_EQ(shift, Nested12RowShift(largest)) << "row " << r;
    for (int64_t i = 0; i < nested.k; ++i) {
      const bool odd = i % 2 != 0;
      const Nested12Weight expected = Nested12Split(bf16[r * nested.k + i], shift, odd);
      const uint8_t pair = nested.nibbles.as<uint8_t>()[r * NibbleBytes(nested.k) + i / 2];
      ASSERT_EQ(nested.upper.as<uint8_t>()[r * nested.k + i], expected.bits.upper) << r << " " << i;
      ASSERT_EQ(odd ? pair >> 4 : pair & 15, expected.bits.nibble) << r << " " << i;
      if (expected.remainder != 0.0f) {
        index.push_back(r * nested.k + i);
        value.push_back(expected.remainder);
      }
    }
    if (nested.k % 2 != 0) {
      ASSERT_EQ(nested.nibbles.as<uint8_t>()[(r + 1) * NibbleBytes(nested.k) - 1] >> 4, 0);
    }
  }
  EXPECT_EQ(nested.remainders.index, index);
  EXPECT_EQ(nested.remainders.value, value);
  EXPECT_EQ(nested.Merged(pool), std::vector<uint16_t>(bf16, bf16 + nested.n * nested.k));
  EXPECT_NO_THROW(nested.Check(pool));
}

// Every finite BF16 weight, shuffled and in rows of like size, so that all shifts occur.
TEST_P(Nest12Test, EveryBf16WeightSurvives) {
  std::vector<float> values;
  for (uint32_t code = 0; code < 0x10000; ++code) {
    if ((code & 0x7f80) != 0x7f80) {
      values.push_back(Bf16ToFloat(static_cast<uint16_t>(code)));
    }
  }
  std::sort(values.begin(), values.end(),
            [](float a, float b) { return std::fabs(a) < std::fabs(b); });
  const int64_t n = static_cast<int64_t>(values.size()) / 510;
  ASSERT_EQ(n * 510, static_cast<int64_t>(values.size()));
  std::mt19937 random(1);
  for (int64_t r = 0; r < n; ++r) {
    std::shuffle(values.begin() + r * 510, values.begin() + (r + 1) * 510, random);
  }
  Nested sorted(DType::kBF16, n, values);
  EXPECT_EQ(sorted.Run(pool_).elements, sorted.n * sorted.k);
  ExpectSplit(sorted, pool_);
  std::shuffle(values.begin(), values.end(), random);
  Nested shuffled(DType::kBF16, n, values);
  const NestReport report = shuffled.Run(pool_);
  EXPECT_EQ(report.outliers, static_cast<int64_t>(shuffled.remainders.index.size()));
  EXPECT_GT(report.outliers, shuffled.n * shuffled.k / 2);
  ExpectSplit(shuffled, pool_);
}

// Like weights of a model: many zeros, and few that are tiny beside their row.
TEST_P(Nest12Test, EverySizeIsHandled) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  for (int64_t k = 1; k <= 140; ++k) {
    std::vector<float> values(3 * k);
    for (float& value : values) {
      value = random() % 8 == 0 ? 0.0f : random() % 32 == 0 ? -1e-7f : normal(random);
    }
    std::fill_n(values.begin() + k, k, 0.0f);
    Nested nested(DType::kBF16, 3, values);
    nested.Run(pool_);
    ExpectSplit(nested, pool_);
    EXPECT_EQ(nested.shifts.as<int8_t>()[1], 0);
  }
}

TEST_P(Nest12Test, OtherTypesRoundAndAreCounted) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> values(5 * 333);
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    int64_t rounded = 0;
    double largest = 0;
    Nested nested(dtype, 5, values);
    for (size_t i = 0; i < values.size(); ++i) {
      const float w = StoreTestElement(nested.source.as<char>(), dtype, static_cast<int64_t>(i),
                                       i % 3 == 0 ? 0.25f : normal(random));
      values[i] = w;
      const float exact = Bf16ToFloat(FloatToBf16(w));
      if (exact != w) {
        ++rounded;
        largest = std::max<double>(largest, std::fabs((w - exact) / w));
      }
    }
    const NestReport report = nested.Run(pool_);
    EXPECT_EQ(report.rounded, rounded);
    EXPECT_DOUBLE_EQ(report.largest_relative_error, largest);
    const std::vector<uint16_t> merged = nested.Merged(pool_);
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(merged[i], FloatToBf16(values[i]));
    }
  }
}

// Rows of a mapped file may begin at any byte.
TEST_P(Nest12Test, SourceNeedsNoAlignment) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    std::vector<float> values(97);
    for (float& value : values) {
      value = normal(random);
    }
    Nested nested(dtype, 1, values);
    nested.Run(pool_);
    const auto bytes = static_cast<int64_t>(values.size()) * DTypeSize(dtype);
    std::vector<char> odd(bytes + 1);
    std::memcpy(odd.data() + 1, nested.source.as<char>(), bytes);
    std::vector<uint8_t> upper(97);
    std::vector<uint8_t> nibbles(49);
    int8_t shift = 0;
    NestReport report;
    OutlierBuffers remainders;
    EXPECT_EQ(Nest12Row(odd.data() + 1, dtype, 97, 1000, upper.data(), nibbles.data(), &shift,
                        report, remainders),
              -1);
    EXPECT_EQ(shift, nested.shifts.as<int8_t>()[0]);
    EXPECT_TRUE(std::equal(upper.begin(), upper.end(), nested.upper.as<uint8_t>()));
    EXPECT_TRUE(std::equal(nibbles.begin(), nibbles.end(), nested.nibbles.as<uint8_t>()));
    EXPECT_EQ(remainders.value, nested.remainders.value);
  }
}

TEST_P(Nest12Test, StopsAtTooManyRemainders) {
  std::vector<float> values(2000, 1e-9f);
  for (int64_t i = 0; i < 2000; i += 2) {
    values[i] = 1.0f;
  }
  Nested nested(DType::kBF16, 4, values);
  EXPECT_EQ(nested.Run(pool_, 1000).outliers, 1000);
  EXPECT_EQ(nested.remainders.index.size(), 1000u);
  EXPECT_GT(nested.Run(pool_, 999).outliers, 999);
  EXPECT_TRUE(nested.remainders.index.empty());
}

TEST_P(Nest12Test, RejectsNonFiniteWeights) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    for (const int64_t at : {0, 31, 64, 250}) {
      for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
        std::vector<float> values(251, 0.25f);
        values[at] = bad;
        EXPECT_THAT(
            [&] { Nested(dtype, 1, values).Run(pool_); },
            ThrowsMessage<Error>(AllOf(HasSubstr("layer.weight: element " + std::to_string(at)),
                                       HasSubstr("finite"))));
      }
    }
  }
  // Finite, but not as BF16.
  EXPECT_THAT(
      [&] {
        Nested(DType::kF32, 1, {1.0f, 3.4e38f}).Run(pool_);
      },
      ThrowsMessage<Error>(HasSubstr("element 1")));
}

// Exactly the bits that some weight splits into are valid.
TEST_P(Nest12Test, CheckFindsImpossibleBits) {
  for (const bool odd : {false, true}) {
    const int64_t at = odd ? 45 : 66;
    for (int bits = 0; bits < 1 << 12; ++bits) {
      const Nested12Bits pair = {static_cast<uint8_t>(bits >> 4), static_cast<uint8_t>(bits & 15)};
      Nested nested(DType::kBF16, 1, std::vector<float>(67, 0.5f));
      nested.Run(pool_);
      nested.upper.as<uint8_t>()[at] = pair.upper;
      uint8_t& nibbles = nested.nibbles.as<uint8_t>()[at / 2];
      nibbles = static_cast<uint8_t>(odd ? (nibbles & 15) | pair.nibble << 4 : pair.nibble);
      if (Nested12Decode(pair, odd) <= kNested12MaxCode) {
        EXPECT_NO_THROW(nested.Check(pool_)) << bits;
      } else {
        EXPECT_THAT([&] { nested.Check(pool_); },
                    ThrowsMessage<Error>(
                        HasSubstr("layer.weight: element " + std::to_string(at) + " has")));
      }
    }
  }
}

TEST_P(Nest12Test, CheckFindsImpossibleRemainders) {
  Nested nested(DType::kBF16, 1, {1.0f, 1e-6f, -1.11e-5f, 0.5f});
  nested.Run(pool_);
  ASSERT_EQ(nested.remainders.index.size(), 2u);
  const auto check = [&] { nested.Check(pool_); };
  EXPECT_NO_THROW(check());
  const OutlierBuffers good = nested.remainders;
  const auto expect = [&](const OutlierBuffers& bad, const char* message) {
    nested.remainders = bad;
    EXPECT_THAT(check, ThrowsMessage<Error>(HasSubstr(message)));
  };
  expect({{1, 1}, good.value}, "ascend");
  expect({{1, 4}, good.value}, "below 4");
  expect({{-1, 2}, good.value}, "ascend");
  expect({{1, 3}, good.value}, "at element 3");
  expect({good.index, {good.value[0], 0.0f}}, "at element 2");
  expect({good.index, {good.value[0], 1.0f}}, "at element 2");
  expect({good.index, {good.value[0], good.value[1] * 1.001f}}, "at element 2");
  expect({good.index, {NAN, good.value[1]}}, "at element 1");
  expect({good.index, {INFINITY, good.value[1]}}, "at element 1");
}

TEST_P(Nest12Test, RejectsWrongPlanes) {
  Nested nested(DType::kBF16, 2, {0.5f, 1.0f, 2.0f, 3.0f});
  OutlierBuffers remainders;
  const auto nest = [&](const Nested12Planes& planes, const TensorView& source) {
    Nest12(pool_, "w", source, planes, 0, &remainders);
  };
  EXPECT_NO_THROW(nest(nested.planes, nested.view));
  Nested12Planes planes = nested.planes;
  planes.upper.shape[1] = 1;
  EXPECT_THAT([&] { nest(planes, nested.view); }, ThrowsMessage<Error>(HasSubstr("upper plane")));
  planes = nested.planes;
  planes.nibble.dtype = DType::kI8;
  EXPECT_THAT([&] { nest(planes, nested.view); }, ThrowsMessage<Error>(HasSubstr("nibble plane")));
  planes = nested.planes;
  planes.shift = {};
  EXPECT_THAT([&] { nest(planes, nested.view); }, ThrowsMessage<Error>(HasSubstr("shifts")));
  EXPECT_THROW(nest(nested.planes, nested.planes.upper), Error);
  EXPECT_THROW(Unnest12(pool_, nested.View(), {}, nested.planes.upper), Error);
}

INSTANTIATE_TEST_SUITE_P(All, Nest12Test, ::testing::Values("scalar", "avx2", "avx512"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace dualfp
