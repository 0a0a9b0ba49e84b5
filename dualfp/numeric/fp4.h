// e2m1: 1-2-1, the element of NVFP4 and MXFP4: 0, .5, 1, 1.5, 2, 3, 4, 6 and their negatives.
// Source: OCP Microscaling Formats (MX) Specification 1.0, section 5.3.3.

#pragma once

#include "dualfp/numeric/small_float.h"

namespace dualfp {

inline constexpr SmallFloatFormat kE2m1Format{2, 1, 1, TopExponent::kFinite, Overflow::kSaturate};
inline constexpr float kE2m1Max = 6.0f;

// `code` is the low nibble; the high one must be zero.
DUALFP_HOST_DEVICE constexpr float E2m1ToFloat(uint8_t code) {
  return DecodeSmallFloat<kE2m1Format>(code);
}

// Nearest, ties to even; saturates to +-6; NaN becomes +6, as in CUDA's conversions.
DUALFP_HOST_DEVICE constexpr uint8_t FloatToE2m1(float value) {
  return static_cast<uint8_t>(EncodeSmallFloat<kE2m1Format>(value));
}

}  // namespace dualfp
