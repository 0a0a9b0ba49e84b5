// Four FP16 weights from four upper and four lower bytes (docs/formats.md, NestedFP).

#pragma once

#include <cstdint>

namespace dualfp::cuda {

// Bytes j = 0..3 of `upper` and `lower` are U and E of four weights; the result holds weights 0, 1
// in `first` and 2, 3 in `second`. h is the upper byte of V + 64 under the sign; subtracting 64
// never borrows past V, so one 32-bit subtraction serves two weights. It is written as a multiply
// by `one` (which is 1; a caller that is short of integer instructions hides that from the
// compiler) and add: those run beside the integer pipe, which the rest keeps busy.
__device__ __forceinline__ void DecodeNested(uint32_t upper, uint32_t lower, uint32_t& first,
                                             uint32_t& second, uint32_t one = 1) {
  const uint32_t h = ((upper >> 1) & 0x3F3F3F3Fu) | (upper & 0x80808080u);
  first = __byte_perm(lower, h, 0x5140) * one - 0x00400040u;
  second = __byte_perm(lower, h, 0x7362) * one - 0x00400040u;
}

}  // namespace dualfp::cuda
