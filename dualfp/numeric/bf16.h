// bfloat16: 1-8-7, the upper half of a float. Codes are the raw bits.

#pragma once

#include "dualfp/numeric/small_float.h"

namespace dualfp {

inline constexpr SmallFloatFormat kBf16Format{8, 7, 127, TopExponent::kIeee, Overflow::kInfinity};

DUALFP_HOST_DEVICE constexpr float Bf16ToFloat(uint16_t code) {
  return DecodeSmallFloat<kBf16Format>(code);
}

// Nearest, ties to even; beyond the largest finite value (after rounding), infinity.
DUALFP_HOST_DEVICE constexpr uint16_t FloatToBf16(float value) {
  return static_cast<uint16_t>(EncodeSmallFloat<kBf16Format>(value));
}

}  // namespace dualfp
