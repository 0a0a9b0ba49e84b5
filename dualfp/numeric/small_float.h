// Binary floating-point formats narrower than float: one decoder and one encoder for all of them.
//
// A format is sign, exponent and mantissa bits with a bias, IEEE-style subnormals, and a rule for
// what its top exponent means. Encoding rounds to nearest, ties to even; every step is integer
// arithmetic on float's bits, so results are exact, constexpr and the same on host and device.

#pragma once

#include <bit>
#include <cstdint>

#include "dualfp/numeric/host_device.h"

namespace dualfp {

enum class TopExponent : uint8_t {
  kIeee,     // infinities and NaNs
  kNanOnly,  // finite, but for all mantissa bits set: NaN ("fn" formats)
  kFinite,   // all finite: neither infinity nor NaN
};

enum class Overflow : uint8_t { kInfinity, kSaturate };

struct SmallFloatFormat {
  int exponent_bits;
  int mantissa_bits;
  int bias;
  TopExponent top;
  Overflow overflow;

  constexpr int sign_shift() const { return exponent_bits + mantissa_bits; }
  constexpr uint32_t exponent_mask() const { return (1u << exponent_bits) - 1; }
  constexpr uint32_t mantissa_mask() const { return (1u << mantissa_bits) - 1; }
  // Largest finite magnitude's code.
  constexpr uint32_t max_code() const {
    const uint32_t all = (1u << sign_shift()) - 1;
    return top == TopExponent::kIeee      ? all - (1u << mantissa_bits)
           : top == TopExponent::kNanOnly ? all - 1
                                          : all;
  }
  // The code that NaN encodes to, without its sign. A finite format has no NaN: as in CUDA, its
  // largest positive value stands in.
  constexpr uint32_t nan_code() const {
    return top == TopExponent::kIeee ? exponent_mask() << mantissa_bits | 1u << (mantissa_bits - 1)
                                     : (1u << sign_shift()) - 1;
  }
};

template <SmallFloatFormat kFormat>
DUALFP_HOST_DEVICE constexpr float DecodeSmallFloat(uint32_t code) {
  constexpr int kMantissa = kFormat.mantissa_bits;
  const uint32_t sign = (code >> kFormat.sign_shift() & 1) << 31;
  const uint32_t exponent = code >> kMantissa & kFormat.exponent_mask();
  const uint32_t mantissa = code & kFormat.mantissa_mask();
  const uint32_t float_mantissa = mantissa << (23 - kMantissa);
  if (exponent == kFormat.exponent_mask() && kFormat.top != TopExponent::kFinite) {
    if (kFormat.top == TopExponent::kIeee) {
      return std::bit_cast<float>(sign | 0x7f800000u | float_mantissa);
    }
    if (mantissa == kFormat.mantissa_mask()) {
      return std::bit_cast<float>(sign | 0x7fc00000u);
    }
  }
  if (exponent == 0) {
    // Subnormal: mantissa * 2^(1 - bias - mantissa_bits). The product of an integer and a power of
    // two is exact in float for every format here, bfloat16's own subnormals included.
    if (kFormat.bias == 127) {
      return std::bit_cast<float>(sign | float_mantissa);
    }
    const float unit =
        std::bit_cast<float>(static_cast<uint32_t>(127 + 1 - kFormat.bias - kMantissa) << 23);
    const float magnitude = static_cast<float>(mantissa) * unit;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  return std::bit_cast<float>(sign | (exponent + 127 - kFormat.bias) << 23 | float_mantissa);
}

template <SmallFloatFormat kFormat>
DUALFP_HOST_DEVICE constexpr uint32_t EncodeSmallFloat(float value) {
  constexpr int kMantissa = kFormat.mantissa_bits;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 31) << kFormat.sign_shift();
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return kFormat.top == TopExponent::kFinite ? kFormat.nan_code() : sign | kFormat.nan_code();
  }
  // Align the significand (implicit bit included) so that the target's last place is bit `shift`.
  // Normal results drop 23 - mantissa_bits places, subnormal ones more.
  const int float_exponent = static_cast<int>(magnitude >> 23);
  const int exponent = (float_exponent == 0 ? 1 : float_exponent) - 127 + kFormat.bias;
  const uint32_t significand = (magnitude & 0x7fffffu) | (float_exponent == 0 ? 0u : 0x800000u);
  const int shift = 23 - kMantissa + (exponent < 1 ? 1 - exponent : 0);
  uint32_t code = 0;
  if (shift <= 24) {
    const uint32_t kept = significand >> shift;
    const uint32_t half = 1u << (shift - 1);
    const uint32_t dropped = significand & ((1u << shift) - 1);
    const uint32_t round_up = dropped > half || (dropped == half && (kept & 1)) ? 1 : 0;
    // A carry out of the mantissa moves into the exponent, which is just what rounding needs.
    const uint32_t exponent_part =
        exponent < 1 ? 0 : static_cast<uint32_t>(exponent - 1) << kMantissa;
    code = exponent_part + kept + round_up;
  }
  if (code > kFormat.max_code()) {
    if (kFormat.overflow == Overflow::kSaturate) {
      code = kFormat.max_code();
    } else {
      code = kFormat.exponent_mask() << kMantissa;
    }
  }
  return sign | code;
}

}  // namespace dualfp
