// The plain loops behind every op: the oracle of the vector kernels, and what runs where there are
// none.

#pragma once

#include "dualfp/kernels/op_table.h"

namespace dualfp::reference {

// Keys are transposed, so that 16 scores are one vector and need no reduction.
inline constexpr KvLayout kKvLayout = {.transposed_keys = true};
inline constexpr DType kActivations[] = {DType::kF32};
inline constexpr DType kKvDTypes[] = {DType::kF32, DType::kF16, DType::kF8E4M3};

void RmsNorm(const Context& context, const RmsNormArgs& args);
void RmsNormQuantize(const Context& context, const RmsNormQuantizeArgs& args);
void RotaryTable(const Context& context, const RotaryTableArgs& args);
void ApplyRotary(const Context& context, const ApplyRotaryArgs& args);
void WriteKvCache(const Context& context, const WriteKvCacheArgs& args);
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

}  // namespace dualfp::reference
