#pragma once

#include "dualfp/kernels/cpu/gemm_inner.h"

namespace dualfp::cpu {

// kAmxE4m3GemmInner for CPUs with AVX-512 alone, far slower. Linked into tests only.
extern const GemmInner kModelAmxE4m3GemmInner;

}  // namespace dualfp::cpu
