// The loops of machine_probe.cc per instruction set. Raw pointers only, for gemm_inner.h's reason.

#pragma once

#include <cstddef>
#include <cstdint>

namespace dualfp::cpu {

struct ProbeInner {
  // Reads `size` bytes, a multiple of 256, and returns something that depends on all of them.
  uint64_t (*read)(const void* data, size_t size);
  // Does `rounds` rounds of multiply-adds and returns a value that depends on them.
  float (*multiply_add)(int64_t rounds);
  int64_t operations_per_round;  // two for each multiply-add of a float
};

extern const ProbeInner kAvx2ProbeInner;
extern const ProbeInner kAvx512ProbeInner;

}  // namespace dualfp::cpu
