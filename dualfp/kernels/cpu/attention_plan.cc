#include "dualfp/kernels/cpu/attention_plan.h"

#include <algorithm>

namespace dualfp::cpu {
namespace {

int64_t ItemTokens(const AttentionShape& shape) {
  return std::max<int64_t>(1, kMaxItemRows / (shape.heads / shape.kv_heads));
}

}  // namespace

// From the last tokens to the first: the longest work of a prefill starts first.
void PlanAttention(const AttentionShape& shape, std::span<const int32_t> query_start,
                   std::span<const int32_t> context_length, AttentionPlan* plan) {
  const int64_t tokens = ItemTokens(shape);
  for (auto s = static_cast<int32_t>(context_length.size()) - 1; s >= 0; --s) {
    const int64_t rows = query_start[s + 1] - query_start[s];
    for (int64_t tile = (rows + tokens - 1) / tokens - 1; tile >= 0; --tile) {
      const int64_t begin = query_start[s] + tile * tokens;
      plan->items.push_back(
          {s, static_cast<int32_t>(begin),
           static_cast<int32_t>(std::min<int64_t>(begin + tokens, query_start[s + 1]))});
    }
  }
}

// Every sequence may end with a part of an item.
AttentionNeeds MostAttention(const AttentionShape& shape, const AttentionLimits& limits) {
  return {.items = limits.max_rows / ItemTokens(shape) + limits.max_sequences};
}

}  // namespace dualfp::cpu
