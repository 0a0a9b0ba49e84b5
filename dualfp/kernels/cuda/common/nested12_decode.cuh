// Tensor-core fragments from Nested12 planes as GPU memory has them (nested12_planes.h).

#pragma once

#include <cstdint>

namespace dualfp::cuda {

// A word of nibbles holds those of a k16 step in the low halves of its bytes and those of the next
// in the high ones. The result has one step's where Nested12Pair...() want them.
template <int kStep>
__device__ __forceinline__ uint32_t Nested12F16Nibbles(uint32_t word) {
  return (kStep == 0 ? word << 3 : word >> 1) & 0x78787878u;
}
template <int kStep>
__device__ __forceinline__ uint32_t Nested12Bf16Nibbles(uint32_t word) {
  return kStep == 0 ? word << 4 : word;  // what else is in a byte is masked later
}

// Each half of `pair` is s U7 8n and becomes s V, V = 8 C = 128 U7 + 8n - 8b: of a weight in an
// even column, b = 8, in the lower half and of its neighbour, b = 7, in the upper one. As
// DecodeNestedPair, with 112 instead of 128 in the upper half.
__device__ __forceinline__ uint32_t Nested12PairToF16(uint32_t pair, uint32_t mask) {
  uint32_t not_x;  // ~((pair & mask) | 0x0070007E)
  asm("lop3.b32 %0, %1, %2, 0x0070007e, 0x15;" : "=r"(not_x) : "r"(pair), "r"(mask));
  return pair + static_cast<uint32_t>(static_cast<int32_t>(not_x) >> 1);
}

// Each half of `pair` is s U7 n and four bits of anything. C = 16 U7 + n - b is a BF16 pattern
// whose exponent is 112 too small, subnormals included, so that one multiplication by +-2^112 makes
// the weight: exactly, for every C. The lower half's sum always carries into the upper one.
__device__ __forceinline__ uint32_t Nested12PairToBf16(uint32_t pair, uint32_t sign_mask) {
  const uint32_t c = ((pair & 0x7ff07ff0u) >> 4) + 0xfff8fff8u;
  uint32_t scale;  // (pair & sign_mask) | 2^112
  asm("lop3.b32 %0, %1, %2, 0x77807780, 0xEA;" : "=r"(scale) : "r"(pair), "r"(sign_mask));
  uint32_t w;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(w) : "r"(c), "r"(scale));
  return w;
}

// Bytes j = 0..3 of `upper` are U of four weights and those of `nibbles` hold their nibbles; the
// result holds weights 0, 1 in `first` and 2, 3 in `second`. `mask`: FP16 kNestedDecodeMask, BF16
// the signs, kNested12SignMask; hidden from the compiler, see DecodeNested.
template <bool kBf16, int kStep>
__device__ __forceinline__ void DecodeNested12(uint32_t upper, uint32_t nibbles, uint32_t& first,
                                               uint32_t& second, uint32_t mask) {
  if constexpr (kBf16) {
    const uint32_t n = Nested12Bf16Nibbles<kStep>(nibbles);
    first = Nested12PairToBf16(__byte_perm(n, upper, 0x5140), mask);
    second = Nested12PairToBf16(__byte_perm(n, upper, 0x7362), mask);
  } else {
    const uint32_t n = Nested12F16Nibbles<kStep>(nibbles);
    first = Nested12PairToF16(__byte_perm(n, upper, 0x5140), mask);
    second = Nested12PairToF16(__byte_perm(n, upper, 0x7362), mask);
  }
}

}  // namespace dualfp::cuda
