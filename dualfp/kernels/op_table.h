// The implementations of every op but Gemm for one instruction set or device (backend.h).

#pragma once

#include "dualfp/kernels/attention.h"
#include "dualfp/kernels/embedding.h"
#include "dualfp/kernels/norm.h"
#include "dualfp/kernels/rope.h"

namespace dualfp {

// Every function may assume arguments that ops.cc has checked.
struct OpTable {
  void (*rms_norm)(const Context&, const RmsNormArgs&);
  void (*rotary_table)(const Context&, const RotaryTableArgs&);
  void (*apply_rotary)(const Context&, const ApplyRotaryArgs&);
  void (*write_kv_cache)(const Context&, const WriteKvCacheArgs&);
  void (*paged_attention)(const Context&, const PagedAttentionArgs&);
  void (*embedding)(const Context&, const EmbeddingArgs&);
  void (*gather_rows)(const Context&, const GatherRowsArgs&);
};

}  // namespace dualfp
