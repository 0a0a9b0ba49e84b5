// The CPU's backends, the widest vectors first.

#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/cpu/gemm_list.h"
#include "dualfp/kernels/cpu/nest12_inner.h"
#include "dualfp/kernels/cpu/nest_inner.h"
#include "dualfp/kernels/cpu/ops.h"
#include "dualfp/kernels/cpu/probe_inner.h"
#include "dualfp/kernels/cpu/row_inner.h"
#include "dualfp/kernels/reference/ops.h"

namespace dualfp {

std::vector<Backend> CpuBackends() {
  const Backend avx512 = {.name = "avx512",
                          .isa = CpuIsa::kAvx512,
                          .ops = &cpu::kAvx512Ops,
                          .rows = &cpu::kAvx512RowInner,
                          .nest = &cpu::kAvx512NestInner,
                          .nest12 = &cpu::kAvx512Nest12Inner,
                          .probe = &cpu::kAvx512ProbeInner,
                          .gemms = cpu::GemmKernelsFor(CpuIsa::kAvx512),
                          .kv_layout = reference::kKvLayout,
                          .kv_dtypes = reference::kKvDTypes,
                          .activations = reference::kActivations};
  // What follows AVX-512 multiplies only.
  Backend amx = avx512;
  amx.name = "amx";
  amx.isa = CpuIsa::kAmx;
  amx.gemms = cpu::GemmKernelsFor(CpuIsa::kAmx);
  Backend bf16 = avx512;
  bf16.name = "avx512bf16";
  bf16.isa = CpuIsa::kAvx512Bf16;
  bf16.gemms = cpu::GemmKernelsFor(CpuIsa::kAvx512Bf16);
  const Backend avx2 = {.name = "avx2",
                        .isa = CpuIsa::kAvx2,
                        .ops = &cpu::kAvx2Ops,
                        .rows = &cpu::kAvx2RowInner,
                        .nest = &cpu::kAvx2NestInner,
                        .nest12 = &cpu::kAvx2Nest12Inner,
                        .probe = &cpu::kAvx2ProbeInner,
                        .gemms = cpu::GemmKernelsFor(CpuIsa::kAvx2),
                        .kv_layout = reference::kKvLayout,
                        .kv_dtypes = reference::kKvDTypes,
                        .activations = reference::kActivations};
  return {amx, bf16, avx512, avx2};
}

}  // namespace dualfp
