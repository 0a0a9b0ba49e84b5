// Four FP16 weights from four upper and four lower bytes as GPU memory has them (numeric/nested.h).

#pragma once

#include <cstdint>

#include "dualfp/numeric/nested.h"

namespace dualfp::cuda {

// Each half of `pair` is s U7 D and becomes s V, V = 128 U7 + D - 64: from its 256 U7 + D go 128 U7
// + 64, half of x = 256 U7 + 128. Adding ~x >> 1 = -(x >> 1) - 1 does that in one instruction,
// shift included, when x has 2 less at the bottom for that 1. The halves keep apart: x's upper half
// is even, so that the shift moves nothing into the lower, and V >= 0, so that none borrows.
__device__ __forceinline__ uint32_t DecodeNestedPair(uint32_t pair, uint32_t mask) {
  uint32_t not_x;  // ~((pair & mask) | 0x0080007E)
  asm("lop3.b32 %0, %1, %2, 0x0080007e, 0x15;" : "=r"(not_x) : "r"(pair), "r"(mask));
  return pair + static_cast<uint32_t>(static_cast<int32_t>(not_x) >> 1);
}

// Bytes j = 0..3 of `upper` and `lower` are U and D of four weights; the result holds weights 0, 1
// in `first` and 2, 3 in `second`. `mask` is kNestedDecodeMask. A caller that is short of integer
// instructions hides that from the compiler: a LOP3 takes one constant, and of two it may make two.
__device__ __forceinline__ void DecodeNested(uint32_t upper, uint32_t lower, uint32_t& first,
                                             uint32_t& second, uint32_t mask = kNestedDecodeMask) {
  first = DecodeNestedPair(__byte_perm(lower, upper, 0x5140), mask);
  second = DecodeNestedPair(__byte_perm(lower, upper, 0x7362), mask);
}

}  // namespace dualfp::cuda
