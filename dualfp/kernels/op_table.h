// The implementations of every op but Gemm, one table per instruction set, best first and the
// reference last. Tests and benchmarks iterate them; ops.cc picks one for the process.

#pragma once

#include <span>
#include <string_view>

#include "dualfp/base/cpu_features.h"
#include "dualfp/kernels/activation.h"
#include "dualfp/kernels/attention.h"
#include "dualfp/kernels/embedding.h"
#include "dualfp/kernels/norm.h"
#include "dualfp/kernels/rope.h"

namespace dualfp {

// Every function may assume arguments that ops.cc has checked.
struct OpTable {
  std::string_view name;
  CpuIsa isa;  // the lowest that can run it
  void (*rms_norm)(const Context&, const RmsNormArgs&);
  void (*rotary_table)(const Context&, const RotaryTableArgs&);
  void (*apply_rotary)(const Context&, const ApplyRotaryArgs&);
  void (*write_kv_cache)(const Context&, const WriteKvCacheArgs&);
  void (*paged_attention)(const Context&, const PagedAttentionArgs&);
  void (*silu_mul)(const Context&, const SiluMulArgs&);
  void (*softmax)(const Context&, const SoftmaxArgs&);
  void (*embedding)(const Context&, const EmbeddingArgs&);
  void (*gather_rows)(const Context&, const GatherRowsArgs&);
};

// Those that this machine (and DUALFP_CPU) can run; never empty.
std::span<const OpTable* const> OpTables();

}  // namespace dualfp
