// IEEE 754 binary16: 1-5-10. Codes are the raw bits.

#pragma once

#include "dualfp/numeric/small_float.h"

namespace dualfp {

inline constexpr SmallFloatFormat kFp16Format{5, 10, 15, TopExponent::kIeee, Overflow::kInfinity};
inline constexpr float kFp16Max = 65504.0f;

DUALFP_HOST_DEVICE constexpr float Fp16ToFloat(uint16_t code) {
  return DecodeSmallFloat<kFp16Format>(code);
}

// Nearest, ties to even; beyond the largest finite value (after rounding), infinity.
DUALFP_HOST_DEVICE constexpr uint16_t FloatToFp16(float value) {
  return static_cast<uint16_t>(EncodeSmallFloat<kFp16Format>(value));
}

}  // namespace dualfp
