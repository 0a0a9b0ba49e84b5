// The two 8-bit formats of the OCP 8-bit Floating Point Specification. Codes are the raw bits.

#pragma once

#include "dualfp/numeric/small_float.h"

namespace dualfp {

// e4m3fn: 1-4-3, largest value 448, no infinity, NaN = 0x7f / 0xff.
inline constexpr SmallFloatFormat kE4m3Format{4, 3, 7, TopExponent::kNanOnly, Overflow::kSaturate};
inline constexpr float kE4m3Max = 448.0f;

// e5m2: 1-5-2, largest value 57344, infinities and NaNs as in IEEE 754.
inline constexpr SmallFloatFormat kE5m2Format{5, 2, 15, TopExponent::kIeee, Overflow::kSaturate};
inline constexpr float kE5m2Max = 57344.0f;

DUALFP_HOST_DEVICE constexpr float E4m3ToFloat(uint8_t code) {
  return DecodeSmallFloat<kE4m3Format>(code);
}

// Nearest, ties to even; saturates to +-448 (infinities too); NaN stays NaN.
DUALFP_HOST_DEVICE constexpr uint8_t FloatToE4m3(float value) {
  return static_cast<uint8_t>(EncodeSmallFloat<kE4m3Format>(value));
}

DUALFP_HOST_DEVICE constexpr float E5m2ToFloat(uint8_t code) {
  return DecodeSmallFloat<kE5m2Format>(code);
}

// Nearest, ties to even; saturates to +-57344 (infinities too); NaN stays NaN.
DUALFP_HOST_DEVICE constexpr uint8_t FloatToE5m2(float value) {
  return static_cast<uint8_t>(EncodeSmallFloat<kE5m2Format>(value));
}

}  // namespace dualfp
