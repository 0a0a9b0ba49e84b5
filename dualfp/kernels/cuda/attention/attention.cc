#include "dualfp/kernels/cuda/attention/attention.h"

#include <algorithm>

#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/ops/ops.h"
#include "dualfp/kernels/cuda/stream.h"

namespace dualfp::cuda {
namespace {

constexpr float kLog2E = 1.44269504f;

int64_t PartialFloats(int64_t head_dim) { return kQueryTile * (head_dim + 2); }

bool Aligned(const void* p, int64_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

// Whether tensor cores can: sixteen bytes of query at a time, at head sizes that are compiled.
bool TensorCoresTake(const PagedAttentionArgs& args) {
  const ConstTensorView& query = args.query;
  const TensorView& out = args.out;
  const int64_t head_dim = query.shape[2];
  const bool compiled =
      head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 || head_dim == 256;
  return compiled && query.dtype != DType::kF32 && args.cache.key.dtype != DType::kF32 &&
         Aligned(query.data, 16) && Aligned(out.data, 16) && query.strides[0] % 8 == 0 &&
         query.strides[1] % 8 == 0 && out.strides[0] % 8 == 0 && out.strides[1] % 8 == 0;
}

}  // namespace

// An item is a sequence: prefills before decodes. Blocks find their shares of them by the lengths
// on the device, so that a captured step holds for other lengths.
void PlanAttention(const AttentionShape& shape, std::span<const int32_t> query_start,
                   std::span<const int32_t> context_length, AttentionPlan* plan) {
  const auto group = static_cast<int>(shape.heads / shape.kv_heads);
  int64_t decodes = 0;
  for (const bool decode : {false, true}) {
    for (size_t s = 0; s < context_length.size(); ++s) {
      const int rows = query_start[s + 1] - query_start[s];
      if (rows > 0 && IsDecode(rows, group) == decode) {
        plan->items.push_back({static_cast<int32_t>(s), query_start[s], query_start[s + 1]});
        decodes += decode ? 1 : 0;
      }
    }
  }
  const auto sequences = static_cast<int64_t>(context_length.size());
  const int64_t longest =
      sequences == 0 ? 0 : *std::max_element(context_length.begin(), context_length.end());
  plan->workspace_bytes = decodes == 0
                              ? 0
                              : MostAttention(shape, {.max_sequences = sequences,
                                                      .max_context = longest,
                                                      .batch_invariant = plan->batch_invariant})
                                    .workspace_bytes;
}

AttentionNeeds MostAttention(const AttentionShape& shape, const AttentionLimits& limits) {
  const int64_t counters = limits.max_sequences * shape.kv_heads *
                           MostQueryTiles(static_cast<int>(shape.heads / shape.kv_heads));
  Check(limits.max_sequences <= kMostSequences && counters <= kAttentionCounters,
        ErrorCode::kUnsupported, "paged_attention: a step of ", limits.max_sequences,
        " sequences with ", shape.kv_heads, " kv heads; a GPU takes ", kMostSequences,
        " sequences at most, and fewer with many heads");
  return {.items = limits.max_sequences,
          .workspace_bytes = MostDecodePieces(shape, limits) * PartialFloats(shape.head_dim) *
                             static_cast<int64_t>(sizeof(float))};
}

void PagedAttention(const Context& context, const PagedAttentionArgs& args,
                    const AttentionPlan& plan) {
  const int64_t head_dim = args.query.shape[2];
  const int64_t kv_heads = args.cache.key.shape[1];
  const int64_t pieces =
      plan.workspace_bytes / (PartialFloats(head_dim) * static_cast<int64_t>(sizeof(float)));
  auto* partial = context.workspace.as<float>();
  const AttentionParams params{.query = args.query.data,
                               .out = args.out.data,
                               .key = args.cache.key.data,
                               .value = args.cache.value.data,
                               .query_start = args.query_start.as<int32_t>(),
                               .context_length = args.context_length.as<int32_t>(),
                               .block_table = args.block_table.as<int32_t>(),
                               .partial = partial,
                               .partial_max_sum = partial + pieces * kQueryTile * head_dim,
                               .counters = StreamOf(context).attention_counters(),
                               .query_row = args.query.strides[0],
                               .query_head = args.query.strides[1],
                               .out_row = args.out.strides[0],
                               .out_head = args.out.strides[1],
                               .table_row = args.block_table.strides[0],
                               .sequences = static_cast<int>(args.context_length.shape[0]),
                               .tokens = static_cast<int>(args.query.shape[0]),
                               .group = static_cast<int>(args.query.shape[1] / kv_heads),
                               .kv_heads = static_cast<int>(kv_heads),
                               .head_dim = static_cast<int>(head_dim),
                               .window = static_cast<int>(args.sliding_window),
                               .scale_log2 = args.scale * args.cache.key_scale * kLog2E,
                               .value_scale = args.cache.value_scale,
                               .dtype = args.query.dtype,
                               .batch_invariant = plan.batch_invariant};
  if (!TensorCoresTake(args)) {
    AttendByKey(context, args.cache.key.dtype, params);
    return;
  }
  bool decodes = false;
  int64_t tiles = 0;
  for (const AttentionItem& item : plan.items) {
    const int rows = item.row_end - item.row_begin;
    if (IsDecode(rows, params.group)) {
      decodes = true;
      break;  // so are the rest
    }
    const int64_t tile = PrefillTile(head_dim);
    tiles += (int64_t{rows} * params.group + tile - 1) / tile;
  }
  if (tiles > 0) {
    AttendPrefills(context, args.cache.key.dtype, tiles, params);
  }
  if (decodes) {
    AttendDecodes(context, args.cache.key.dtype, params);
  }
}

}  // namespace dualfp::cuda
