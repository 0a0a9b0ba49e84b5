// The nested format against its definition, over every eligible weight, and the table of the
// format's specification.

#include "dualfp/numeric/nested.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp {
namespace {

constexpr int kNumCodes = 1 << 16;

TEST(NestedTest, SplitAndMergeAreExactForEveryEligibleWeight) {
  int eligible = 0;
  for (int code = 0; code < kNumCodes; ++code) {
    const auto fp16 = static_cast<uint16_t>(code);
    const float value = Fp16ToFloat(fp16);
    ASSERT_EQ(NestedEligible(fp16), std::fabs(value) <= kNestedMax) << code;
    if (!NestedEligible(fp16)) {
      continue;
    }
    ++eligible;
    const NestedBytes bytes = NestedSplit(fp16);
    ASSERT_EQ(NestedMerge(bytes.upper, bytes.lower), fp16) << code;
  }
  EXPECT_EQ(eligible, 2 * (kNestedMaxBits + 1));
}

TEST(NestedTest, UpperByteIsTheE4m3OfTheWeightTimes256) {
  for (int code = 0; code < kNumCodes; ++code) {
    const auto fp16 = static_cast<uint16_t>(code);
    if (NestedEligible(fp16)) {
      ASSERT_EQ(NestedSplit(fp16).upper, FloatToE4m3(256.0f * Fp16ToFloat(fp16))) << code;
    }
  }
}

// Beyond 1.75 the upper byte saturates, but up to 1.875 the two bytes still hold the weight.
TEST(NestedTest, ReconstructionHoldsBeyondTheEligibleRange) {
  for (uint16_t fp16 = kNestedMaxBits + 1; Fp16ToFloat(fp16) < 1.875f; ++fp16) {
    const auto lower = static_cast<uint8_t>(fp16 + 64);
    ASSERT_EQ(NestedMerge(FloatToE4m3(448.0f), lower), fp16);
  }
}

TEST(NestedTest, DeviceLowerIsTheDistanceToTheRoundedUpperByte) {
  for (int code = 0; code < kNumCodes; ++code) {
    const auto fp16 = static_cast<uint16_t>(code);
    if (!NestedEligible(fp16)) {
      continue;
    }
    const NestedBytes bytes = NestedSplit(fp16);
    const uint32_t lower = NestedDeviceLower(bytes.upper, bytes.lower);
    ASSERT_EQ((fp16 & 0x7fff) - 128 * (bytes.upper & 127) + 64, lower) << code;
    ASSERT_EQ(NestedDeviceLower(bytes.upper, lower), bytes.lower) << code;
  }
}

TEST(NestedTest, DeviceLowerOfAWordIsThatOfItsBytes) {
  for (uint32_t pair = 0; pair < 0x10000; ++pair) {
    const uint32_t upper = pair >> 8;
    const uint32_t lower = pair & 255;
    const uint32_t expected = NestedDeviceLower(upper, lower);
    ASSERT_LT(expected, 256u) << pair;
    for (int shift = 0; shift < 32; shift += 8) {
      ASSERT_EQ(NestedDeviceLower(upper << shift, lower << shift), expected << shift) << pair;
    }
  }
}

// What the GPU's check of planes tests, from the pairs that splitting makes.
TEST(NestedTest, PairsOfTheDeviceAreTheseAlone) {
  for (uint32_t pair = 0; pair < 0x10000; ++pair) {
    const auto upper = static_cast<uint8_t>(pair >> 8);
    const uint32_t d = pair & 255;
    const auto e = static_cast<uint8_t>(NestedDeviceLower(upper, d));
    const uint16_t fp16 = NestedMerge(upper, e);
    const bool made = NestedEligible(fp16) && NestedSplit(fp16) == NestedBytes{upper, e};
    const uint32_t magnitude = upper & 127u;
    const bool rounds = magnitude % 2 == 0 ? d <= 128 : d >= 1 && d <= 127;
    const bool in_range = magnitude == 0 ? d >= 64 : magnitude == 126 ? d <= 64 : magnitude != 127;
    ASSERT_EQ(made, rounds && in_range) << pair;
  }
}

struct Row {
  uint16_t fp16;
  float weight;
  uint8_t upper;
  uint8_t published_lower;
  uint8_t lower;
  float fp8_weight;
};

TEST(NestedTest, SpecificationTable) {
  constexpr std::array kRows = {
      Row{0x0000, 0.0f, 0x00, 0x00, 0x40, 0.0f},
      Row{0x0001, 5.9604645e-8f, 0x00, 0x01, 0x41, 0.0f},
      Row{0x03ff, 6.0975552e-5f, 0x08, 0xff, 0x3f, 6.1035156e-5f},
      Row{0x0400, 6.1035156e-5f, 0x08, 0x00, 0x40, 6.1035156e-5f},
      Row{0x2c66, 0.0687255859375f, 0x59, 0x66, 0xa6, 0.0703125f},
      Row{0xac66, -0.0687255859375f, 0xd9, 0x66, 0xa6, -0.0703125f},
      Row{0x2e40, 0.09765625f, 0x5c, 0x40, 0x80, 0.09375f},
      Row{0x2ec0, 0.10546875f, 0x5e, 0xc0, 0x00, 0.109375f},
      Row{0x3c40, 1.0625f, 0x78, 0x40, 0x80, 1.0f},
      Row{0x3cc0, 1.1875f, 0x7a, 0xc0, 0x00, 1.25f},
      Row{0x3f00, 1.75f, 0x7e, 0x00, 0x40, 1.75f},
      Row{0xbf00, -1.75f, 0xfe, 0x00, 0x40, -1.75f},
  };
  for (const Row& row : kRows) {
    EXPECT_EQ(Fp16ToFloat(row.fp16), row.weight);
    const NestedBytes bytes = NestedSplit(row.fp16);
    EXPECT_EQ(bytes.upper, row.upper) << row.weight;
    EXPECT_EQ(row.fp16 & 255, row.published_lower) << row.weight;
    EXPECT_EQ(bytes.lower, row.lower) << row.weight;
    EXPECT_EQ(E4m3ToFloat(bytes.upper) * kNestedScale, row.fp8_weight) << row.weight;
  }
}

static_assert(NestedMerge(NestedSplit(0xac66).upper, NestedSplit(0xac66).lower) == 0xac66);

}  // namespace
}  // namespace dualfp
