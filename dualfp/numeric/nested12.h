// Nested12: a BF16 weight, exact, in 12 bits, of which the upper 8 are an E4M3 weight on their own.
//
// A row of weights is shifted by a power of two, v = w * 2^shift, so that its largest lies in
// (0.875, 1.75]. From 2^-14 to there v's BF16 pattern without its sign takes 1,889 values:
//
//   C = pattern - 0x3800 = 16 U7 + nibble - b      b = 8 in even columns, 7 in odd ones
//
//   upper byte    sign << 7 | U7     a nearest E4M3 of 256 v: what FP8 mode multiplies
//   nibble        with it, exact mode gets C back, and 8 C is v's FP16 pattern
//
// Where C lies halfway between two E4M3 codes, b = 8 takes the upper and b = 7 the lower one, so
// that ties have no bias along a row. Below 2^-14, C counts units of 2^-21, as FP16's subnormals
// do: v is rounded to them, and what is lost is kept apart as a remainder.

#pragma once

#include <bit>
#include <cstdint>

#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"

namespace dualfp {

// Of |v|, and its BF16 pattern.
inline constexpr float kNested12Max = 1.75f;
inline constexpr uint16_t kNested12MaxBits = 0x3fe0;

// C of |v| = 1.75, and of 2^-14, below which a weight may have a remainder.
inline constexpr uint32_t kNested12BaseBits = 0x3800;
inline constexpr uint32_t kNested12MaxCode = kNested12MaxBits - kNested12BaseBits;
inline constexpr uint32_t kNested12FirstNormal = 128;

// v = E4M3 value of the upper byte (rounded) / kNested12Units.
inline constexpr float kNested12Units = 256.0f;

inline constexpr int kNested12MinShift =
    -128;  // of a row whose largest weight exceeds 1.75 * 2^127
inline constexpr int kNested12MaxShift = 127;

// What C is moved by in a column before its lowest four bits become the nibble.
DUALFP_HOST_DEVICE constexpr uint32_t Nested12Bias(bool odd_column) { return odd_column ? 7 : 8; }

// value * 2^exponent for |exponent| <= 136, rounded at most once where |value| lies in [2^-58,
// 2^59] or is 0. (2^exponent alone may be beyond float's range.)
DUALFP_HOST_DEVICE constexpr float ScaleByPowerOfTwo(float value, int exponent) {
  const int half = exponent / 2;
  return value * std::bit_cast<float>(static_cast<uint32_t>(127 + half) << 23) *
         std::bit_cast<float>(static_cast<uint32_t>(127 + exponent - half) << 23);
}

// What an E4M3 value of a row's upper plane is worth, 2^(-8 - shift): the weight scale of the row
// as a per-channel FP8 weight. A subnormal float, and exact, from a shift of 119 on.
DUALFP_HOST_DEVICE constexpr float Nested12RowScale(int shift) {
  return ScaleByPowerOfTwo(1.0f, -8 - shift);
}

// The shift of a row whose largest magnitude has this BF16 pattern (finite): the largest, at most
// 127, that leaves it at 1.75 or below; 0 for a row of zeros.
DUALFP_HOST_DEVICE constexpr int Nested12RowShift(uint16_t largest) {
  const uint32_t magnitude = largest & 0x7fff;
  if (magnitude == 0) {
    return 0;
  }
  // Subnormals are mantissa * 2^-133; from a mantissa of 113 on, a shift of 127 exceeds 1.75.
  const int shift = magnitude < 128
                        ? (magnitude <= 112 ? 127 : 126)
                        : static_cast<int>((kNested12MaxBits - magnitude + 0x8000) >> 7) - 0x100;
  return shift < kNested12MaxShift ? shift : kNested12MaxShift;
}

// C of |w * 2^shift|, which must be at most 1.75; below 128 rounded, ties to even, where 128 may
// come out.
DUALFP_HOST_DEVICE constexpr uint32_t Nested12Code(uint16_t bf16, int shift) {
  const int magnitude = bf16 & 0x7fff;
  const int exponent = magnitude < 128 ? 1 : magnitude >> 7;
  const int moved = magnitude + 128 * shift;  // v's pattern where w and v are normal
  if (magnitude >= 128 && moved >= static_cast<int>(kNested12BaseBits + kNested12FirstNormal)) {
    return static_cast<uint32_t>(moved) - kNested12BaseBits;
  }
  // |w| = significand * 2^(exponent - 134), and v in units of 2^-21:
  const auto significand =
      static_cast<uint32_t>(magnitude < 128 ? magnitude : magnitude % 128 + 128);
  const int up = exponent - 134 + shift + 21;
  if (up < 0) {
    const int down = -up;
    if (down > 8) {
      return 0;  // significand < 2^8: less than half
    }
    const uint32_t kept = significand >> down;
    const uint32_t dropped = significand & ((1u << down) - 1);
    const uint32_t half = 1u << (down - 1);
    return kept + (dropped > half || (dropped == half && kept % 2 != 0) ? 1 : 0);
  }
  // A subnormal w: v may be normal all the same.
  uint32_t units = significand << up;
  uint32_t exponent_part = 0;
  for (; units >= 2 * kNested12FirstNormal; units /= 2) {
    exponent_part += kNested12FirstNormal;
  }
  return exponent_part + units;
}

struct Nested12Bits {
  uint8_t upper;
  uint8_t nibble;  // 0 .. 15

  friend constexpr bool operator==(const Nested12Bits&, const Nested12Bits&) = default;
};

// `code` is a C, at most kNested12MaxCode.
DUALFP_HOST_DEVICE constexpr Nested12Bits Nested12Encode(bool negative, uint32_t code,
                                                         bool odd_column) {
  const uint32_t moved = code + Nested12Bias(odd_column);
  return {static_cast<uint8_t>((negative ? 0x80 : 0) | moved >> 4),
          static_cast<uint8_t>(moved & 15)};
}

// The C that Nested12Encode was given; more than kNested12MaxCode for bits that it never makes.
DUALFP_HOST_DEVICE constexpr uint32_t Nested12Decode(Nested12Bits bits, bool odd_column) {
  return 16u * (bits.upper & 127u) + bits.nibble - Nested12Bias(odd_column);
}

// v's pattern, exact.
DUALFP_HOST_DEVICE constexpr uint16_t Nested12ToFp16(Nested12Bits bits, bool odd_column) {
  return static_cast<uint16_t>((bits.upper & 0x80u) << 8 | Nested12Decode(bits, odd_column) << 3);
}

DUALFP_HOST_DEVICE constexpr float Nested12ToFloat(Nested12Bits bits, bool odd_column) {
  return Fp16ToFloat(Nested12ToFp16(bits, odd_column));
}

DUALFP_HOST_DEVICE constexpr uint16_t Nested12ToBf16(Nested12Bits bits, bool odd_column) {
  return FloatToBf16(Nested12ToFloat(bits, odd_column));
}

// One weight of a row: its bits, and w - plane * 2^-shift, which is 0 where |v| >= 2^-14 and
// exact everywhere.
struct Nested12Weight {
  Nested12Bits bits;
  float remainder;
};

// |w * 2^shift| must be at most 1.75.
DUALFP_HOST_DEVICE constexpr Nested12Weight Nested12Split(uint16_t bf16, int shift,
                                                          bool odd_column) {
  const Nested12Bits bits =
      Nested12Encode((bf16 & 0x8000) != 0, Nested12Code(bf16, shift), odd_column);
  const float plane = ScaleByPowerOfTwo(Nested12ToFloat(bits, odd_column), -shift);
  return {bits, Bf16ToFloat(bf16) - plane};
}

// The exact weight of Nested12Split.
DUALFP_HOST_DEVICE constexpr uint16_t Nested12Merge(Nested12Weight weight, int shift,
                                                    bool odd_column) {
  const float plane = ScaleByPowerOfTwo(Nested12ToFloat(weight.bits, odd_column), -shift);
  return FloatToBf16(weight.remainder == 0.0f ? plane : plane + weight.remainder);
}

}  // namespace dualfp
