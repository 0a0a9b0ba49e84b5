// The loops of nest.cc per instruction set. Raw pointers only, for gemm_inner.h's reason.

#pragma once

#include <cstdint>

#include "dualfp/tensor/dtype.h"

namespace dualfp::cpu {

struct NestCounts {
  int64_t rounded = 0;
  float largest_relative_error = 0.0f;
};

// Elements that a loop works on at a time; sizes below are multiples of it.
inline constexpr int64_t kNestGroup = 64;

struct NestInner {
  // Splits `size` elements of dtype F16, BF16 or F32. Stops before the first group that holds a
  // weight outside the nested range and returns the number of elements done.
  int64_t (*split)(const void* source, DType dtype, int64_t size, uint8_t* upper, uint8_t* lower,
                   NestCounts& counts);
  void (*merge)(const uint8_t* upper, const uint8_t* lower, int64_t size, uint16_t* fp16);
  // The number of elements before the first group with a pair that no weight splits into.
  int64_t (*count_valid)(const uint8_t* upper, const uint8_t* lower, int64_t size);
};

extern const NestInner kAvx2NestInner;
extern const NestInner kAvx512NestInner;

}  // namespace dualfp::cpu
