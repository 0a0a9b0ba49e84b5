// How the CPU's attention is cut into work, the same for every instruction set.

#pragma once

#include <span>

#include "dualfp/kernels/op_table.h"

namespace dualfp::cpu {

// Rows (a token times the query heads of a kv head) of a work item: enough to use every loaded key
// several times, few enough that their accumulators stay in the L1 cache.
inline constexpr int kMaxItemRows = 16;

// OpTable's functions.
void PlanAttention(const AttentionShape& shape, std::span<const int32_t> query_start,
                   std::span<const int32_t> context_length, AttentionPlan* plan);
AttentionNeeds MostAttention(const AttentionShape& shape, const AttentionLimits& limits);

}  // namespace dualfp::cpu
