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
// hand, so upper and lower agree on the carry and merging is one subtraction. GPU memory holds
// another lower byte, see NestedDeviceLower.

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

// Lower bytes in GPU memory: D = V - 128 U7 + 64, where U7 = upper & 127. U7 is V / 128 rounded to
// even, so D is 0 .. 128 where U7 is even and 1 .. 127 where it is odd. E is 128 U7 + D, modulo
// 256: one is the other with its top bit flipped where the upper byte is odd. This turns E into D
// and D into E, of one pair of bytes or of each of the four in a pair of words.
DUALFP_HOST_DEVICE constexpr uint32_t NestedDeviceLower(uint32_t upper, uint32_t lower) {
  return lower ^ (upper & 0x01010101u) << 7;
}

// U7 of two weights whose bytes lie as upper << 8 | lower in the halves of a word: what the GPU's
// decoder (kernels/cuda/common/nested_decode.cuh) masks out of them.
inline constexpr uint32_t kNestedDecodeMask = 0x7f007f00;

}  // namespace dualfp
