#include "dualfp/kernels/cpu/attention_simd.h"
#include "dualfp/kernels/cpu/elementwise_simd.h"
#include "dualfp/kernels/cpu/ops.h"
#include "dualfp/kernels/cpu/sample.h"
#include "dualfp/kernels/reference/ops.h"

namespace dualfp::cpu {

// Look-ups and the cache's writes are bound by memory; the angles are few.
const OpTable kAvx2Ops = {
    .rms_norm = RmsNorm<F32x8>,
    .rms_norm_quantize = RmsNormQuantize<F32x8, kAvx2RowInner>,
    .rotary_table = reference::RotaryTable,
    .apply_rotary = ApplyRotary<F32x8>,
    .write_kv_cache = reference::WriteKvCache,
    .copy_kv_blocks = reference::CopyKvBlocks,
    .plan_attention = PlanAttention,
    .attention_needs = MostAttention,
    .paged_attention = PagedAttention<F32x8>,
    .embedding = reference::Embedding,
    .gather_rows = reference::GatherRows,
    .resolve_tokens = reference::ResolveTokens,
    .sample = Sample,
};

}  // namespace dualfp::cpu
