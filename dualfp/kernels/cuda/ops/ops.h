// The ops of kernels/*.h on a GPU of compute capability 9.0 or above. Every one enqueues and
// returns; arguments are checked by kernels/ops.cc.

#pragma once

#include "dualfp/kernels/op_table.h"

namespace dualfp::cuda {

inline constexpr DType kActivations[] = {DType::kF16, DType::kBF16, DType::kF32};
inline constexpr DType kKvDTypes[] = {DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kF32};

void RmsNorm(const Context& context, const RmsNormArgs& args);
void RmsNormQuantize(const Context& context, const RmsNormQuantizeArgs& args);
void RotaryTable(const Context& context, const RotaryTableArgs& args);
void ApplyRotary(const Context& context, const ApplyRotaryArgs& args);
void WriteKvCache(const Context& context, const WriteKvCacheArgs& args);
void RotateAndCache(const Context& context, const RotateAndCacheArgs& args);
void CopyKvBlocks(const Context& context, const CopyKvBlocksArgs& args);
void PlanAttention(const AttentionShape& shape, std::span<const int32_t> query_start,
                   std::span<const int32_t> context_length, AttentionPlan* plan);
AttentionNeeds MostAttention(const AttentionShape& shape, const AttentionLimits& limits);
void PagedAttention(const Context& context, const PagedAttentionArgs& args,
                    const AttentionPlan& plan);
void Embedding(const Context& context, const EmbeddingArgs& args);
void GatherRows(const Context& context, const GatherRowsArgs& args);
void ResolveTokens(const Context& context, const ResolveTokensArgs& args);
void Sample(const Context& context, const SampleArgs& args);

inline constexpr OpTable kOps = {
    .rms_norm = RmsNorm,
    .rms_norm_quantize = RmsNormQuantize,
    .rotary_table = RotaryTable,
    .apply_rotary = ApplyRotary,
    .write_kv_cache = WriteKvCache,
    .rotate_and_cache = RotateAndCache,
    .copy_kv_blocks = CopyKvBlocks,
    .plan_attention = PlanAttention,
    .attention_needs = MostAttention,
    .paged_attention = PagedAttention,
    .embedding = Embedding,
    .gather_rows = GatherRows,
    .resolve_tokens = ResolveTokens,
    .sample = Sample,
};

}  // namespace dualfp::cuda
