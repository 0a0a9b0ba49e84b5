// Every format, exhaustively: all codes decoded against the value computed in double, and encoding
// checked at every code, every boundary between two neighbours and that boundary's float
// neighbours, against round-to-nearest-even computed in double. A new format is one more traits
// struct in the list below.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/e8m0.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp4.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp {
namespace {

struct Fp16Traits {
  static constexpr SmallFloatFormat kFormat = kFp16Format;
  static constexpr double kMax = 65504;
  static float Decode(uint32_t code) { return Fp16ToFloat(static_cast<uint16_t>(code)); }
  static uint32_t Encode(float value) { return FloatToFp16(value); }
};
struct Bf16Traits {
  static constexpr SmallFloatFormat kFormat = kBf16Format;
  static constexpr double kMax = 0x1.fep127;
  static float Decode(uint32_t code) { return Bf16ToFloat(static_cast<uint16_t>(code)); }
  static uint32_t Encode(float value) { return FloatToBf16(value); }
};
struct E4m3Traits {
  static constexpr SmallFloatFormat kFormat = kE4m3Format;
  static constexpr double kMax = 448;
  static float Decode(uint32_t code) { return E4m3ToFloat(static_cast<uint8_t>(code)); }
  static uint32_t Encode(float value) { return FloatToE4m3(value); }
};
struct E5m2Traits {
  static constexpr SmallFloatFormat kFormat = kE5m2Format;
  static constexpr double kMax = 57344;
  static float Decode(uint32_t code) { return E5m2ToFloat(static_cast<uint8_t>(code)); }
  static uint32_t Encode(float value) { return FloatToE5m2(value); }
};
struct E2m1Traits {
  static constexpr SmallFloatFormat kFormat = kE2m1Format;
  static constexpr double kMax = 6;
  static float Decode(uint32_t code) { return E2m1ToFloat(static_cast<uint8_t>(code)); }
  static uint32_t Encode(float value) { return FloatToE2m1(value); }
};

template <typename Traits>
class SmallFloatTest : public ::testing::Test {
 public:
  static constexpr SmallFloatFormat kFormat = Traits::kFormat;
  static constexpr uint32_t kSignBit = 1u << kFormat.sign_shift();

  // The value of a non-negative code by the textbook formula.
  static double Definition(uint32_t code) {
    const int exponent = static_cast<int>(code >> kFormat.mantissa_bits);
    const auto mantissa = static_cast<double>(code & kFormat.mantissa_mask());
    const double fraction = std::ldexp(mantissa, -kFormat.mantissa_bits);
    return exponent == 0 ? std::ldexp(fraction, 1 - kFormat.bias)
                         : std::ldexp(1 + fraction, exponent - kFormat.bias);
  }
};

using Formats = ::testing::Types<Fp16Traits, Bf16Traits, E4m3Traits, E5m2Traits, E2m1Traits>;
TYPED_TEST_SUITE(SmallFloatTest, Formats);

TYPED_TEST(SmallFloatTest, DecodesEveryCode) {
  EXPECT_EQ(TypeParam::Decode(TestFixture::kFormat.max_code()), TypeParam::kMax);
  for (uint32_t code = 0; code < TestFixture::kSignBit; ++code) {
    const float value = TypeParam::Decode(code);
    const float negative = TypeParam::Decode(code | TestFixture::kSignBit);
    if (code <= TestFixture::kFormat.max_code()) {
      ASSERT_EQ(value, TestFixture::Definition(code)) << code;
      ASSERT_EQ(std::bit_cast<uint32_t>(negative), std::bit_cast<uint32_t>(value) | 0x80000000u);
    } else if (TestFixture::kFormat.top == TopExponent::kIeee &&
               (code & TestFixture::kFormat.mantissa_mask()) == 0) {
      ASSERT_EQ(value, std::numeric_limits<float>::infinity());
      ASSERT_EQ(negative, -std::numeric_limits<float>::infinity());
    } else {
      ASSERT_TRUE(std::isnan(value)) << code;
      ASSERT_TRUE(std::isnan(negative)) << code;
    }
  }
}

TYPED_TEST(SmallFloatTest, EncodesEveryCodeBackToItself) {
  for (uint32_t code = 0; code <= TestFixture::kFormat.max_code(); ++code) {
    ASSERT_EQ(TypeParam::Encode(TypeParam::Decode(code)), code);
    const uint32_t negative = code | TestFixture::kSignBit;
    ASSERT_EQ(TypeParam::Encode(TypeParam::Decode(negative)), negative);
  }
}

// At the midpoint of two neighbours and just beside it, for every pair of neighbours.
TYPED_TEST(SmallFloatTest, RoundsToNearestEvenAtEveryBoundary) {
  for (uint32_t code = 0; code < TestFixture::kFormat.max_code(); ++code) {
    const double middle = (TestFixture::Definition(code) + TestFixture::Definition(code + 1)) / 2;
    const auto tie = static_cast<float>(middle);
    ASSERT_EQ(tie, middle) << "a float holds every midpoint exactly";
    const float below = std::nextafter(tie, 0.0f);
    const float above = std::nextafter(tie, std::numeric_limits<float>::infinity());
    const uint32_t even = code % 2 == 0 ? code : code + 1;
    ASSERT_EQ(TypeParam::Encode(below), code);
    ASSERT_EQ(TypeParam::Encode(tie), even);
    ASSERT_EQ(TypeParam::Encode(above), code + 1);
    ASSERT_EQ(TypeParam::Encode(-below), code | TestFixture::kSignBit);
    ASSERT_EQ(TypeParam::Encode(-tie), even | TestFixture::kSignBit);
    ASSERT_EQ(TypeParam::Encode(-above), (code + 1) | TestFixture::kSignBit);
  }
}

TYPED_TEST(SmallFloatTest, OverflowNanAndFloatSubnormals) {
  const uint32_t max = TestFixture::kFormat.max_code();
  const uint32_t overflow = TestFixture::kFormat.overflow == Overflow::kSaturate ? max : max + 1;
  // Half a unit in the last place beyond the largest value is where overflow begins.
  const double unit = TestFixture::Definition(max) - TestFixture::Definition(max - 1);
  const double limit = TestFixture::Definition(max) + unit / 2;
  if (limit < std::numeric_limits<float>::max()) {
    EXPECT_EQ(TypeParam::Encode(std::nextafter(static_cast<float>(limit), 0.0f)), max);
  }
  EXPECT_EQ(TypeParam::Encode(static_cast<float>(limit)), overflow);
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(TypeParam::Encode(infinity), overflow);
  EXPECT_EQ(TypeParam::Encode(-infinity), overflow | TestFixture::kSignBit);

  const float nan = std::numeric_limits<float>::quiet_NaN();
  if (TestFixture::kFormat.top == TopExponent::kFinite) {
    EXPECT_EQ(TypeParam::Encode(nan), max);
    EXPECT_EQ(TypeParam::Encode(-nan), max);
  } else {
    EXPECT_TRUE(std::isnan(TypeParam::Decode(TypeParam::Encode(nan))));
    EXPECT_TRUE(std::isnan(TypeParam::Decode(TypeParam::Encode(-nan))));
    EXPECT_NE(TypeParam::Encode(-nan) & TestFixture::kSignBit, 0u);
  }

  const float tiny = std::numeric_limits<float>::denorm_min();
  if (TestFixture::kFormat.bias != 127) {
    EXPECT_EQ(TypeParam::Encode(tiny), 0u);
    EXPECT_EQ(TypeParam::Encode(-tiny), TestFixture::kSignBit);
  }
}

// bfloat16 to FP16, as a checkpoint is loaded: exact between 2^-17 and 65504.
TEST(ConversionTest, Bf16ToFp16IsExactInItsStatedRange) {
  for (uint32_t code = 0; code < 0x8000; ++code) {
    const float value = Bf16ToFloat(static_cast<uint16_t>(code));
    if (value >= 0x1p-17f && value <= kFp16Max) {
      ASSERT_EQ(Fp16ToFloat(FloatToFp16(value)), value) << code;
    }
  }
}

TEST(E8m0Test, DecodesEveryCodeAndEncodesTheFloor) {
  for (int code = 0; code < 255; ++code) {
    const double value = std::ldexp(1.0, code - 127);
    ASSERT_EQ(E8m0ToFloat(static_cast<uint8_t>(code)), value);
    ASSERT_EQ(FloatToE8m0Floor(static_cast<float>(value)), code);
    ASSERT_EQ(FloatToE8m0Floor(-static_cast<float>(value) * 1.75f), code == 0 ? 0 : code);
    if (code > 1) {
      ASSERT_EQ(FloatToE8m0Floor(std::nextafter(static_cast<float>(value), 0.0f)), code - 1);
    }
  }
  EXPECT_TRUE(std::isnan(E8m0ToFloat(kE8m0Nan)));
  EXPECT_EQ(FloatToE8m0Floor(0.0f), 0);
  EXPECT_EQ(FloatToE8m0Floor(std::numeric_limits<float>::infinity()), 254);
  EXPECT_EQ(FloatToE8m0Floor(std::numeric_limits<float>::quiet_NaN()), kE8m0Nan);
}

static_assert(FloatToE4m3(448.0f) == 0x7e && FloatToE2m1(2.5f) == 0x4 && FloatToE2m1(-6.0f) == 0xf);

}  // namespace
}  // namespace dualfp
