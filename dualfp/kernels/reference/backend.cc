#include "dualfp/kernels/backend.h"

#include "dualfp/kernels/reference/gemm_reference.h"
#include "dualfp/kernels/reference/ops.h"
#include "dualfp/kernels/reference/probe.h"
#include "dualfp/kernels/reference/rows.h"

namespace dualfp {
namespace {

constexpr OpTable kOps = {
    .rms_norm = reference::RmsNorm,
    .rms_norm_quantize = reference::RmsNormQuantize,
    .rotary_table = reference::RotaryTable,
    .apply_rotary = reference::ApplyRotary,
    .write_kv_cache = reference::WriteKvCache,
    .copy_kv_blocks = reference::CopyKvBlocks,
    .plan_attention = reference::PlanAttention,
    .attention_needs = reference::MostAttention,
    .paged_attention = reference::PagedAttention,
    .embedding = reference::Embedding,
    .gather_rows = reference::GatherRows,
    .resolve_tokens = reference::ResolveTokens,
    .sample = reference::Sample,
};

}  // namespace

Backend ReferenceBackend() {
  return {.name = "reference",
          .ops = &kOps,
          .rows = &reference::kRowInner,
          .probe = &reference::kProbeInner,
          .gemms = reference::GemmKernels(),
          .kv_layout = reference::kKvLayout,
          .kv_dtypes = reference::kKvDTypes,
          .activations = reference::kActivations};
}

}  // namespace dualfp
