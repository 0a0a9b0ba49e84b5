// NestedFP: one FP16 weight as two bytes, of which the upper is an E4M3 weight on its own.
// Source: Lee et al., NestedFP, NeurIPS 2025 (arXiv 2506.02024), with a lower byte of our own that
// needs no carry correction.
//
//   FP16 weight   s e e e e e m m m m m m m m m m       |w| <= 1.75, so the top exponent bit is 0
//                 |   +-----------+ +-----------+
//   upper byte    s + round(V / 128)                    E4M3 of 256 w: what FP8 mode multiplies
//   lower byte    (V + 64) mod 256                      with it, FP16 mode gets the exact bits back
//
// V is the weight's low 15 bits. Adding 64 before the split is the rounding of V / 128 done by
// hand, so upper and lower agree on the carry and merging is one subtraction.

#pragma once

#include <cstdint>

#include "dualfp/numeric/host_device.h"

namespace dualfp {

// Weights up to here have an upper byte that is exactly E4M3(256 w).
inline constexpr float kNestedMax = 1.75f;
inline constexpr uint16_t kNestedMaxBits = 0x3f00;

// w = kNestedScale * E4M3 value of the upper byte (rounded).
inline constexpr float kNestedScale = 1.0f / 256.0f;

struct NestedBytes {
  uint8_t upper;
  uint8_t lower;

  friend constexpr bool operator==(const NestedBytes&, const NestedBytes&) = default;
};

// |w| <= 1.75; false for NaN and infinities.
DUALFP_HOST_DEVICE constexpr bool NestedEligible(uint16_t fp16) {
  return (fp16 & 0x7fff) <= kNestedMaxBits;
}

// `fp16` must be eligible.
DUALFP_HOST_DEVICE constexpr NestedBytes NestedSplit(uint16_t fp16) {
  const uint32_t v = fp16 & 0x7fff;
  const uint32_t sign = fp16 >> 8 & 0x80;
  const uint32_t floor = v >> 7;
  const uint32_t rest = v & 127;
  const uint32_t round_up = rest > 64 || (rest == 64 && (floor & 1)) ? 1 : 0;
  return {static_cast<uint8_t>(sign | (floor + round_up)), static_cast<uint8_t>(v + 64)};
}

// The exact FP16 bits that NestedSplit was given.
DUALFP_HOST_DEVICE constexpr uint16_t NestedMerge(uint8_t upper, uint8_t lower) {
  const uint32_t high = static_cast<uint32_t>(upper & 0x7f) >> 1;
  const uint32_t v = (high << 8 | lower) - 64;
  return static_cast<uint16_t>((upper & 0x80) << 8 | (v & 0x7fff));
}

}  // namespace dualfp
