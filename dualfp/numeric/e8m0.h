// e8m0: a power of two as a bare exponent with bias 127; the scale of the MX formats.
// Source: OCP Microscaling Formats (MX) Specification 1.0, section 5.4.1.

#pragma once

#include <bit>
#include <cstdint>

#include "dualfp/numeric/host_device.h"

namespace dualfp {

inline constexpr uint8_t kE8m0Nan = 0xff;

// 2^(code - 127); 0xff is NaN. Code 0 is 2^-127, a subnormal float.
DUALFP_HOST_DEVICE constexpr float E8m0ToFloat(uint8_t code) {
  if (code == kE8m0Nan) {
    return std::bit_cast<float>(0x7fc00000u);
  }
  return std::bit_cast<float>(code == 0 ? 0x00400000u : static_cast<uint32_t>(code) << 23);
}

// The largest power of two that is at most |value|, clamped to the format's range; zero encodes as
// 2^-127, infinity as 2^127, NaN as NaN. The sign is ignored.
DUALFP_HOST_DEVICE constexpr uint8_t FloatToE8m0Floor(float value) {
  const uint32_t magnitude = std::bit_cast<uint32_t>(value) & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return kE8m0Nan;
  }
  const uint32_t exponent = magnitude >> 23;
  return static_cast<uint8_t>(exponent < kE8m0Nan ? exponent : kE8m0Nan - 1);
}

// The smallest power of two that is at least |value|, likewise.
DUALFP_HOST_DEVICE constexpr uint8_t FloatToE8m0Ceil(float value) {
  const uint8_t floor = FloatToE8m0Floor(value);
  const float magnitude = value < 0 ? -value : value;
  return floor < kE8m0Nan - 1 && E8m0ToFloat(floor) < magnitude ? static_cast<uint8_t>(floor + 1)
                                                                : floor;
}

}  // namespace dualfp
