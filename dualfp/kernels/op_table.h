// The implementations of every op but Gemm for one instruction set or device (backend.h).

#pragma once

#include "dualfp/kernels/attention.h"
#include "dualfp/kernels/embedding.h"
#include "dualfp/kernels/norm.h"
#include "dualfp/kernels/rope.h"
#include "dualfp/kernels/sample.h"

namespace dualfp {

struct AttentionNeeds {
  int64_t items = 0;
  int64_t workspace_bytes = 0;
};

// Every function may assume arguments that ops.cc has checked.
struct OpTable {
  void (*rms_norm)(const Context&, const RmsNormArgs&);
  void (*rms_norm_quantize)(const Context&, const RmsNormQuantizeArgs&);
  void (*rotary_table)(const Context&, const RotaryTableArgs&);
  void (*apply_rotary)(const Context&, const ApplyRotaryArgs&);
  void (*write_kv_cache)(const Context&, const WriteKvCacheArgs&);
  // nullptr: the four ops that it stands for, one after the other.
  void (*rotate_and_cache)(const Context&, const RotateAndCacheArgs&) = nullptr;
  void (*copy_kv_blocks)(const Context&, const CopyKvBlocksArgs&);
  // Appends the items of a step to a plan that has none and room enough, and says how much
  // workspace they want.
  void (*plan_attention)(const AttentionShape&, std::span<const int32_t> query_start,
                         std::span<const int32_t> context_length, AttentionPlan*);
  // The most items, and the most workspace, of any step within the limits.
  AttentionNeeds (*attention_needs)(const AttentionShape&, const AttentionLimits&);
  void (*paged_attention)(const Context&, const PagedAttentionArgs&, const AttentionPlan&);
  void (*embedding)(const Context&, const EmbeddingArgs&);
  void (*gather_rows)(const Context&, const GatherRowsArgs&);
  void (*resolve_tokens)(const Context&, const ResolveTokensArgs&);
  void (*sample)(const Context&, const SampleArgs&);
};

}  // namespace dualfp
