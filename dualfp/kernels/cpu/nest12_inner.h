// The loops of nest12.cc per instruction set. Raw pointers only, for gemm_inner.h's reason.

#pragma once

#include <cstdint>

#include "dualfp/numeric/nested12.h"

namespace dualfp::cpu {

// Elements that a loop works on at a time; sizes below are multiples of it.
inline constexpr int64_t kNest12Group = 32;

// The largest BF16 magnitude, 0 apart, whose C is not its pattern moved by 128 * shift and
// kNested12BaseBits: |v| < 2^-14, or the weight is subnormal.
[[gnu::always_inline]] static inline int Nest12LargestSpecial(int shift) {
  const int below_normal =
      static_cast<int>(kNested12BaseBits + kNested12FirstNormal) - 1 - 128 * shift;
  return below_normal > 127 ? below_normal : 127;
}

struct Nest12Inner {
  // The largest magnitude among `size` BF16 patterns, NaN and infinity included.
  uint16_t (*largest)(const uint16_t* bf16, int64_t size);
  // Splits `size` weights from an even column on. Stops before the first group with a weight other
  // than 0 up to Nest12LargestSpecial() and returns the number of elements done. Magnitudes are at
  // most what `shift` was chosen for.
  int64_t (*split)(const uint16_t* bf16, int64_t size, int shift, uint8_t* upper, uint8_t* nibbles);
  // The same the other way round: to BF16 patterns.
  int64_t (*merge)(const uint8_t* upper, const uint8_t* nibbles, int64_t size, int shift,
                   uint16_t* bf16);
  // The number of elements before the first group with bits that no weight splits into.
  int64_t (*count_valid)(const uint8_t* upper, const uint8_t* nibbles, int64_t size);
};

extern const Nest12Inner kAvx2Nest12Inner;
extern const Nest12Inner kAvx512Nest12Inner;

}  // namespace dualfp::cpu
