// What this machine's CPU can do, asked once. DUALFP_CPU=scalar|avx2|avx512|avx512bf16|amx
// lowers the answer (never raises it), so that tests reach every path on one machine.

#pragma once

#include <string>
#include <string_view>

namespace dualfp {

// Ordered: each level includes the ones before it.
enum class CpuIsa {
  kScalar,
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // F, BW, VL, DQ, VBMI and GFNI
  kAvx512Bf16,  // + BF16 dot products
  kAmx,         // + tiles of BF16
};

std::string_view CpuIsaName(CpuIsa isa);

// Highest level that CPU, operating system and DUALFP_CPU allow.
// Throws kInvalidArgument when DUALFP_CPU is not one of the names above.
CpuIsa DetectCpuIsa();

// Whether a BF16 dot product of 512 bits is worth taking: twice as many multiply-adds a cycle as
// FMA on AMD's Zen 4, but half as many on Intel's (measured on model 207: 1.7 a nanosecond of 32
// products each, against 6.7 FMAs of 16).
bool HasFastBf16Dot();

// "AMD EPYC 9B14 (avx512bf16, 2 threads)": for benchmark headers and logs.
std::string CpuDescription();

}  // namespace dualfp
