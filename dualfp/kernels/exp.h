// e^x for the samplers, the same bits on every device.

#pragma once

#include <bit>
#include <cstdint>

#include "dualfp/numeric/host_device.h"

namespace dualfp {

// e^x for x <= 0, within 2 ulp; 0 below -87. Clamped by masks, as comparisons of floats (which may
// trap) and selections keep GCC from making vector code, which std::exp would as well. Range
// reduction and polynomial are Cephes' expf (Moshier). Whoever compiles it must not fuse
// multiplications and additions.
DUALFP_HOST_DEVICE constexpr float ExpNonPositive(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const auto magnitude = static_cast<int32_t>(std::bit_cast<uint32_t>(x) & 0x7fffffffu);
  constexpr auto kLimit = std::bit_cast<int32_t>(87.0f);
  const int32_t beyond = (kLimit - magnitude) >> 31;  // all bits where |x| > 87, else none
  const float clamped = -std::bit_cast<float>((magnitude & ~beyond) | (kLimit & beyond));
  const float shifted = clamped * 1.44269504088896341f + kMagic;
  const float n = shifted - kMagic;
  float r = clamped - n * 0.693359375f;
  r -= n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kMagic);
  return p * std::bit_cast<float>(((exponent + 127) << 23) & ~beyond);
}

}  // namespace dualfp
