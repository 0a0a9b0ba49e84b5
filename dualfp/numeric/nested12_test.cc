// Nested12 against its definition in double: every BF16 weight with every shift that a row can
// have, in both columns.

#include "dualfp/numeric/nested12.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdlib>

#include "dualfp/numeric/fp8.h"

namespace dualfp {
namespace {

constexpr int kNumPatterns = 1 << 16;
constexpr int kInfinity = 0x7f80;  // BF16's; larger magnitudes are NaN
constexpr double kNormalFloor = 1.0 / (1 << 14);

double Value(int bf16) { return Bf16ToFloat(static_cast<uint16_t>(bf16)); }

// The value of a C, from the format's definition.
double CodeValue(uint32_t code) {
  if (code < 128) {
    return std::ldexp(code, -21);
  }
  return std::ldexp(128 + code % 128, static_cast<int>(code / 128) - 22);
}

double E4m3Value(int magnitude) { return E4m3ToFloat(static_cast<uint8_t>(magnitude)); }

TEST(Nested12Test, RowShiftIsTheLargestThatLeavesTheRowInRange) {
  EXPECT_EQ(Nested12RowShift(0), 0);
  EXPECT_EQ(Nested12RowShift(0x8000), 0);
  for (int bf16 = 1; bf16 < kInfinity; ++bf16) {
    const int shift = Nested12RowShift(static_cast<uint16_t>(bf16));
    ASSERT_GE(shift, kNested12MinShift) << bf16;
    ASSERT_LE(shift, kNested12MaxShift) << bf16;
    ASSERT_LE(std::ldexp(Value(bf16), shift), 1.75) << bf16;
    if (shift < kNested12MaxShift) {
      ASSERT_GT(std::ldexp(Value(bf16), shift + 1), 1.75) << bf16;
    }
    ASSERT_EQ(Nested12RowShift(static_cast<uint16_t>(bf16 | 0x8000)), shift) << bf16;
  }
  for (int shift = kNested12MinShift; shift <= kNested12MaxShift; ++shift) {
    EXPECT_EQ(Nested12RowScale(shift), std::ldexp(1.0, -8 - shift)) << shift;
  }
}

// Everything that a weight's bits promise, for one weight of a row.
void CheckWeight(int bf16, int shift, bool odd) {
  const auto pattern = static_cast<uint16_t>(bf16);
  const double w = Value(bf16);
  const double v = std::ldexp(w, shift);
  const Nested12Weight split = Nested12Split(pattern, shift, odd);
  const uint32_t code = Nested12Decode(split.bits, odd);
  ASSERT_LT(split.bits.nibble, 16);
  ASSERT_LE(code, kNested12MaxCode);
  const double plane = std::copysign(CodeValue(code), v);
  if (std::fabs(v) >= kNormalFloor) {
    ASSERT_EQ(plane, v);
    ASSERT_EQ(split.remainder, 0.0f);
  } else {
    ASSERT_EQ(plane, std::ldexp(std::nearbyint(std::ldexp(v, 21)), -21));
    ASSERT_EQ(split.remainder, w - std::ldexp(plane, -shift));
  }
  ASSERT_EQ(Nested12Merge(split, shift, odd), pattern);
  ASSERT_EQ(Nested12ToFloat(split.bits, odd), plane);
  ASSERT_EQ(std::signbit(Nested12ToFloat(split.bits, odd)), bf16 >= 0x8000);
}

TEST(Nested12Test, EveryWeightIsExactInBothColumnsWithEveryShift) {
  for (int shift = kNested12MinShift; shift <= kNested12MaxShift; ++shift) {
    int in_range = 0;
    for (int bf16 = 0; bf16 < kNumPatterns; ++bf16) {
      if ((bf16 & 0x7fff) >= kInfinity || std::fabs(std::ldexp(Value(bf16), shift)) > 1.75) {
        continue;
      }
      ++in_range;
      for (const bool odd : {false, true}) {
        CheckWeight(bf16, shift, odd);
        ASSERT_FALSE(::testing::Test::HasFatalFailure())
            << "pattern " << bf16 << " shift " << shift << (odd ? " odd" : " even");
      }
    }
    EXPECT_GE(in_range, 2 * 113) << shift;
  }
}

// The three ways to read the planes, and which bits there are.
TEST(Nested12Test, EveryCodeAsFp16Bf16AndFloat) {
  int made = 0;
  for (const bool odd : {false, true}) {
    for (int bits = 0; bits < 1 << 12; ++bits) {
      const Nested12Bits pair = {static_cast<uint8_t>(bits >> 4), static_cast<uint8_t>(bits & 15)};
      const uint32_t code = Nested12Decode(pair, odd);
      if (code > kNested12MaxCode) {
        continue;
      }
      ++made;
      const bool negative = pair.upper >= 0x80;
      ASSERT_EQ(Nested12Encode(negative, code, odd), pair) << bits;
      const double value = negative ? -CodeValue(code) : CodeValue(code);
      ASSERT_EQ(Fp16ToFloat(Nested12ToFp16(pair, odd)), value) << bits;
      ASSERT_EQ(Bf16ToFloat(Nested12ToBf16(pair, odd)), value) << bits;
      ASSERT_EQ(Nested12ToFloat(pair, odd), value) << bits;
      // As kernels may do it: patterns, and one multiplication that is right for subnormals too.
      const uint32_t sign = negative ? 0x80000000u : 0;
      if (code >= kNested12FirstNormal) {
        ASSERT_EQ(Nested12ToBf16(pair, odd), sign >> 16 | (code + kNested12BaseBits)) << bits;
      }
      ASSERT_EQ(std::bit_cast<float>(sign | code << 16) * 0x1p112f, value) << bits;
    }
  }
  EXPECT_EQ(made, 2 * 2 * (kNested12MaxCode + 1));
}

TEST(Nested12Test, UpperByteIsANearestE4m3) {
  int ties = 0;
  int not_to_even = 0;
  for (const bool odd : {false, true}) {
    double error = 0;
    double tie_error = 0;
    for (uint32_t code = kNested12FirstNormal; code <= kNested12MaxCode; ++code) {
      const double v = 256 * CodeValue(code);
      const Nested12Bits bits = Nested12Encode(false, code, odd);
      EXPECT_EQ(Nested12Encode(true, code, odd),
                (Nested12Bits{static_cast<uint8_t>(bits.upper | 0x80), bits.nibble}));
      const double distance = std::fabs(E4m3Value(bits.upper) - v);
      const double above = std::fabs(E4m3Value(bits.upper + 1) - v);
      const double below = std::fabs(E4m3Value(bits.upper - 1) - v);
      ASSERT_LE(distance, below) << code;
      if (bits.upper < 126) {  // 448; the next code is NaN
        ASSERT_LE(distance, above) << code;
      }
      const double relative = (E4m3Value(bits.upper) - v) / std::ldexp(1.0, code / 128);
      error += relative;
      if (distance == below || distance == above) {
        ++ties;
        tie_error += relative;
        EXPECT_EQ(E4m3Value(bits.upper) > v, !odd) << code;
        not_to_even += bits.upper != FloatToE4m3(static_cast<float>(v)) ? 1 : 0;
      } else {
        EXPECT_EQ(bits.upper, FloatToE4m3(static_cast<float>(v))) << code;
      }
    }
    // A tie moves by half a code, 2^-4 of its binade: up in even columns, down in odd ones. All
    // else cancels out.
    EXPECT_EQ(tie_error, std::ldexp(odd ? -118 : 118, -7 - 4)) << odd;
    EXPECT_EQ(error, tie_error) << odd;
  }
  EXPECT_EQ(ties, 2 * 118);
  EXPECT_EQ(not_to_even, 118);
}

struct Row {
  uint16_t bf16;
  int shift;
  bool odd;
  uint8_t upper;
  uint8_t nibble;
  float remainder;
};

// By hand, from the definition.
TEST(Nested12Test, Examples) {
  constexpr std::array kRows = {
      Row{0x0000, 0, false, 0x00, 8, 0.0f}, Row{0x8000, 5, true, 0x80, 7, 0.0f},
      Row{0x3fe0, 0, false, 0x7e, 8, 0.0f},                                       // 1.75
      Row{0xbfe0, 0, true, 0xfe, 7, 0.0f}, Row{0x3f80, 0, false, 0x78, 8, 0.0f},  // 1
      Row{0x3d88, 2, false, 0x69, 0, 0.0f},     // 0.06640625 * 4: a tie, up
      Row{0x3d88, 2, true, 0x68, 15, 0.0f},     // and down
      Row{0x7f7f, -128, false, 0x78, 7, 0.0f},  // the largest BF16
      Row{0x0001, 127, false, 0x48, 8, 0.0f},   // the smallest: 2^-133 * 2^127 = 2^-6
      // Units of 2^-21 from here on.
      Row{0x3800, 0, false, 0x04, 8, 0.0f},                                                // 64
      Row{0x3781, 0, false, 0x02, 8, 0x1p-23f},                                            // 32.25
      Row{0xb781, 0, true, 0x82, 7, -0x1p-23f}, Row{0x37ff, 0, true, 0x04, 7, -0x1p-23f},  // 63.75
      Row{0x387f, 0, false, 0x08, 8, -0x1p-22f},  // 127.5, to 128
      Row{0x3400, 0, false, 0x00, 8, 0x1p-23f},   // 0.25
  };
  for (const Row& row : kRows) {
    const Nested12Weight split = Nested12Split(row.bf16, row.shift, row.odd);
    EXPECT_EQ(split.bits.upper, row.upper) << row.bf16;
    EXPECT_EQ(split.bits.nibble, row.nibble) << row.bf16;
    EXPECT_EQ(split.remainder, row.remainder) << row.bf16;
  }
}

static_assert(Nested12Merge(Nested12Split(0xac66, 8, true), 8, true) == 0xac66);

}  // namespace
}  // namespace dualfp
