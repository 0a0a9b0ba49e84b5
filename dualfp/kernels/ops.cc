// The public ops: check the arguments, then run the best implementation of this machine.

#include <algorithm>
#include <cmath>

#include "dualfp/base/check.h"
#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/sample_scratch.h"

namespace dualfp {

namespace {

// Found once: a step asks often.
const Backend& BackendOf(DeviceType device) {
  if (device == DeviceType::kCpu) [[likely]] {
    static const Backend& cpu = BestBackend(DeviceType::kCpu);
    return cpu;
  }
  static const Backend& gpu = BestBackend(DeviceType::kCuda);
  return gpu;
}

const OpTable& OpsOf(DeviceType device) {
  const Backend& backend = BackendOf(device);
  Check(backend.ops != nullptr, ErrorCode::kUnsupported, "the ", backend.name,
        " backend has GEMMs only");
  return *backend.ops;
}

const OpTable& Ops(const Context& context) {
  CheckInternal(context.device.type != DeviceType::kCpu || context.threads != nullptr,
                "a CPU context needs a thread pool");
  return OpsOf(context.device.type);
}

// Checks dtype, shape and that the last axis is contiguous.
void CheckView(const char* op, const char* name, const ConstTensorView& view, DType dtype,
               std::span<const int64_t> shape) {
  bool fits = view.dtype == dtype && view.rank == static_cast<int>(shape.size());
  for (int axis = 0; fits && axis < view.rank; ++axis) {
    fits = view.shape[axis] == shape[axis];
  }
  fits = fits &&
         (view.rank == 0 || view.shape[view.rank - 1] <= 1 || view.strides[view.rank - 1] == 1);
  if (!fits) [[unlikely]] {
    Fail(ErrorCode::kInvalidArgument, op, ": ", name, " is ", Describe(view), ", expected ",
         Describe(ConstTensorView(nullptr, dtype, shape)), " with a contiguous last axis");
  }
}

void CheckView(const char* op, const char* name, const ConstTensorView& view, DType dtype,
               std::initializer_list<int64_t> shape) {
  CheckView(op, name, view, dtype, std::span(shape.begin(), shape.size()));
}

// The dtype of `view`, which must be one of the device's activations.
DType ActivationOf(const Context& context, const char* op, const char* name,
                   const ConstTensorView& view) {
  const std::span<const DType> known = BackendOf(context.device.type).activations;
  Check(std::ranges::find(known, view.dtype) != known.end(), ErrorCode::kInvalidArgument, op, ": ",
        name, " is ", Describe(view), ", which no hidden states of the ",
        BackendOf(context.device.type).name, " backend are");
  return view.dtype;
}

int64_t Dim(const ConstTensorView& view, int axis) {
  return axis < view.rank ? view.shape[axis] : 0;
}

void CheckWorkspace(const char* op, const Context& context, int64_t wanted) {
  const int64_t given = context.workspace ? context.workspace.num_bytes() : 0;
  Check(given >= wanted, ErrorCode::kInvalidArgument, op, " wants a workspace of ", wanted,
        " bytes and got ", given);
}

void CheckHeadScales(const char* op, const PagedKv& cache, const ConstTensorView& scales) {
  if (!scales) {
    return;
  }
  CheckView(op, "cache scales", scales, DType::kF32, {Dim(cache.key, 1)});
  Check(cache.key.device.type == DeviceType::kCpu, ErrorCode::kUnsupported, op,
        ": a key-value cache with a scale for each head is for the CPU");
}

void CheckKvCache(const Context& context, const char* op, const PagedKv& cache, int64_t head_dim) {
  const int64_t blocks = Dim(cache.key, 0);
  const int64_t heads = Dim(cache.key, 1);
  const DType dtype = cache.key.dtype;
  const std::span<const DType> known = KvDTypesOf(context.device.type);
  Check(std::ranges::find(known, dtype) != known.end(), ErrorCode::kUnsupported, op,
        ": a key-value cache of ", DTypeName(dtype), " on the ",
        BackendOf(context.device.type).name, " backend");
  const KvLayout& layout = KvLayoutOf(context.device.type);
  CheckView(op, "cache key", cache.key, dtype, layout.KeyShape(blocks, heads, head_dim));
  CheckView(op, "cache value", cache.value, dtype, layout.ValueShape(blocks, heads, head_dim));
  Check(cache.key.is_contiguous() && cache.value.is_contiguous(), ErrorCode::kInvalidArgument, op,
        ": the cache must be contiguous");
  CheckHeadScales(op, cache, cache.key_head_scales);
  CheckHeadScales(op, cache, cache.value_head_scales);
}

}  // namespace

std::array<int64_t, 4> KvLayout::KeyShape(int64_t blocks, int64_t kv_heads,
                                          int64_t head_dim) const {
  if (transposed_keys) {
    return {blocks, kv_heads, head_dim, kKvBlockSize};
  }
  return ValueShape(blocks, kv_heads, head_dim);
}

std::array<int64_t, 4> KvLayout::ValueShape(int64_t blocks, int64_t kv_heads,
                                            int64_t head_dim) const {
  return {blocks, kv_heads, kKvBlockSize, head_dim};
}

const KvLayout& KvLayoutOf(DeviceType device) { return BackendOf(device).kv_layout; }

std::span<const DType> KvDTypesOf(DeviceType device) { return BackendOf(device).kv_dtypes; }

void RmsNorm(const Context& context, const RmsNormArgs& args) {
  const int64_t rows = Dim(args.x, 0);
  const DType dtype = ActivationOf(context, "rms_norm", "x", args.x);
  if (args.x.rank == 3) {
    const int64_t heads = args.x.shape[1];
    const int64_t width = args.x.shape[2];
    CheckView("rms_norm", "x", args.x, dtype, {rows, heads, width});
    CheckView("rms_norm", "y", args.y, dtype, {rows, heads, width});
    CheckView("rms_norm", "weight", args.weight, DType::kF32, {width});
  } else {
    const int64_t width = Dim(args.x, 1);
    CheckView("rms_norm", "x", args.x, dtype, {rows, width});
    CheckView("rms_norm", "y", args.y, dtype, {rows, width});
    CheckView("rms_norm", "weight", args.weight, DType::kF32, {width});
  }
  Ops(context).rms_norm(context, args);
}

void RmsNormQuantize(const Context& context, const RmsNormQuantizeArgs& args) {
  const int64_t rows = Dim(args.x, 0);
  const int64_t width = Dim(args.x, 1);
  const DType dtype = ActivationOf(context, "rms_norm_quantize", "x", args.x);
  CheckView("rms_norm_quantize", "x", args.x, dtype, {rows, width});
  CheckView("rms_norm_quantize", "weight", args.weight, DType::kF32, {width});
  CheckView("rms_norm_quantize", "codes", args.codes, DType::kF8E4M3, {rows, width});
  CheckView("rms_norm_quantize", "scales", args.scales, DType::kF32, {rows});
  const bool fixed = args.quant == ActivationQuant::kStaticPerTensor;
  Check(fixed || args.quant == ActivationQuant::kDynamicPerToken, ErrorCode::kUnsupported,
        "rms_norm_quantize: ", ActivationQuantName(args.quant),
        " scales, expected per-token or static ones");
  Check(!fixed || (args.static_scale > 0 && std::isfinite(args.static_scale)),
        ErrorCode::kInvalidArgument,
        "rms_norm_quantize: the static scale must be positive and finite");
  Ops(context).rms_norm_quantize(context, args);
}

void RotaryTable(const Context& context, const RotaryTableArgs& args) {
  const int64_t tokens = Dim(args.position, 0);
  const int64_t half = Dim(args.inv_freq, 1);
  CheckView("rotary_table", "position", args.position, DType::kI32, {tokens});
  CheckView("rotary_table", "row", args.row, DType::kI32, {tokens});
  CheckView("rotary_table", "inv_freq", args.inv_freq, DType::kF32, {Dim(args.inv_freq, 0), half});
  CheckView("rotary_table", "cos_sin", args.cos_sin, DType::kF32, {tokens, 2 * half});
  Ops(context).rotary_table(context, args);
}

void ApplyRotary(const Context& context, const ApplyRotaryArgs& args) {
  const int64_t tokens = Dim(args.x, 0);
  const int64_t width = Dim(args.cos_sin, 1);
  const DType dtype = ActivationOf(context, "apply_rotary", "x", args.x);
  CheckView("apply_rotary", "x", args.x, dtype, {tokens, Dim(args.x, 1), Dim(args.x, 2)});
  CheckView("apply_rotary", "cos_sin", args.cos_sin, DType::kF32, {tokens, width});
  Check(width % 2 == 0 && width <= args.x.shape[2], ErrorCode::kInvalidArgument,
        "apply_rotary: rotates ", width, " elements of heads of ", args.x.shape[2]);
  Ops(context).apply_rotary(context, args);
}

void WriteKvCache(const Context& context, const WriteKvCacheArgs& args) {
  const int64_t tokens = Dim(args.key, 0);
  const int64_t heads = Dim(args.cache.key, 1);
  const int64_t head_dim = Dim(args.key, 2);
  CheckKvCache(context, "write_kv_cache", args.cache, head_dim);
  const DType dtype = ActivationOf(context, "write_kv_cache", "key", args.key);
  CheckView("write_kv_cache", "key", args.key, dtype, {tokens, heads, head_dim});
  CheckView("write_kv_cache", "value", args.value, dtype, {tokens, heads, head_dim});
  CheckView("write_kv_cache", "slot", args.slot, DType::kI32, {tokens});
  Ops(context).write_kv_cache(context, args);
}

void RotateAndCache(const Context& context, const RotateAndCacheArgs& args) {
  const OpTable& ops = Ops(context);
  if (ops.rotate_and_cache == nullptr) {
    if (args.query_weight) {
      RmsNorm(context, {args.query, args.query_weight, args.epsilon, args.query});
    }
    if (args.key_weight) {
      RmsNorm(context, {args.key, args.key_weight, args.epsilon, args.key});
    }
    ApplyRotary(context, {args.cos_sin, args.query});
    ApplyRotary(context, {args.cos_sin, args.key});
    WriteKvCache(context, {args.key, args.value, args.slot, args.cache});
    return;
  }
  constexpr const char* kOp = "rotate_and_cache";
  const int64_t tokens = Dim(args.query, 0);
  const int64_t heads = Dim(args.query, 1);
  const int64_t head_dim = Dim(args.query, 2);
  const int64_t kv_heads = Dim(args.cache.key, 1);
  const int64_t width = Dim(args.cos_sin, 1);
  const DType dtype = ActivationOf(context, kOp, "query", args.query);
  CheckKvCache(context, kOp, args.cache, head_dim);
  CheckView(kOp, "query", args.query, dtype, {tokens, heads, head_dim});
  CheckView(kOp, "key", args.key, dtype, {tokens, kv_heads, head_dim});
  CheckView(kOp, "value", args.value, dtype, {tokens, kv_heads, head_dim});
  CheckView(kOp, "cos_sin", args.cos_sin, DType::kF32, {tokens, width});
  CheckView(kOp, "slot", args.slot, DType::kI32, {tokens});
  for (const ConstTensorView& weight : {args.query_weight, args.key_weight}) {
    if (weight) {
      CheckView(kOp, "weight", weight, DType::kF32, {head_dim});
    }
  }
  Check(width % 2 == 0 && width <= head_dim, ErrorCode::kInvalidArgument, kOp, ": rotates ", width,
        " elements of heads of ", head_dim);
  ops.rotate_and_cache(context, args);
}

void CopyKvBlocks(const Context& context, const CopyKvBlocksArgs& args) {
  CheckView("copy_kv_blocks", "copies", args.copies, DType::kI32, {Dim(args.copies, 0), 2});
  CheckView("copy_kv_blocks", "planes", args.planes, DType::kU8,
            {Dim(args.planes, 0), Dim(args.planes, 1), Dim(args.planes, 2)});
  Check(args.planes.is_contiguous() && args.copies.is_contiguous(), ErrorCode::kInvalidArgument,
        "copy_kv_blocks: planes and copies must be contiguous");
  Ops(context).copy_kv_blocks(context, args);
}

namespace {

void CheckShape(const AttentionShape& shape) {
  Check(1 <= shape.head_dim && shape.head_dim <= kMaxHeadDim, ErrorCode::kUnsupported,
        "paged_attention: head_dim ", shape.head_dim, ", expected 1 to ", kMaxHeadDim);
  Check(shape.kv_heads >= 1 && shape.heads >= 1 && shape.heads % shape.kv_heads == 0,
        ErrorCode::kInvalidArgument, "paged_attention: ", shape.heads,
        " heads are not a multiple of ", shape.kv_heads, " kv heads");
}

}  // namespace

AttentionPlan MakeAttentionPlan(DeviceType device, const AttentionShape& shape,
                                const AttentionLimits& limits) {
  CheckShape(shape);
  const AttentionNeeds needs = OpsOf(device).attention_needs(shape, limits);
  AttentionPlan plan;
  plan.items.reserve(needs.items);
  plan.workspace_bytes = needs.workspace_bytes;
  plan.batch_invariant = limits.batch_invariant;
  return plan;
}

void PlanPagedAttention(DeviceType device, const AttentionShape& shape,
                        std::span<const int32_t> query_start,
                        std::span<const int32_t> context_length, AttentionPlan* plan) {
  CheckShape(shape);
  Check(query_start.size() == context_length.size() + 1, ErrorCode::kInvalidArgument,
        "paged_attention: ", query_start.size(), " starts of ", context_length.size(),
        " sequences");
  for (size_t s = 0; s < context_length.size(); ++s) {
    const int64_t rows = int64_t{query_start[s + 1]} - query_start[s];
    Check(0 <= rows && rows <= context_length[s], ErrorCode::kInvalidArgument,
          "paged_attention: sequence ", s, " has ", rows, " rows of a context of ",
          context_length[s]);
  }
  plan->items.clear();
  plan->workspace_bytes = 0;
  OpsOf(device).plan_attention(shape, query_start, context_length, plan);
}

void PagedAttention(const Context& context, const PagedAttentionArgs& args,
                    const AttentionPlan& plan) {
  const int64_t tokens = Dim(args.query, 0);
  const int64_t heads = Dim(args.query, 1);
  const int64_t head_dim = Dim(args.query, 2);
  const int64_t kv_heads = Dim(args.cache.key, 1);
  const int64_t sequences = Dim(args.context_length, 0);
  CheckKvCache(context, "paged_attention", args.cache, head_dim);
  CheckShape({heads, kv_heads, head_dim});
  const DType dtype = ActivationOf(context, "paged_attention", "query", args.query);
  CheckView("paged_attention", "query", args.query, dtype, {tokens, heads, head_dim});
  CheckView("paged_attention", "out", args.out, dtype, {tokens, heads, head_dim});
  CheckView("paged_attention", "query_start", args.query_start, DType::kI32, {sequences + 1});
  CheckView("paged_attention", "context_length", args.context_length, DType::kI32, {sequences});
  CheckView("paged_attention", "block_table", args.block_table, DType::kI32,
            {sequences, Dim(args.block_table, 1)});
  CheckWorkspace("paged_attention", context, plan.workspace_bytes);
  Ops(context).paged_attention(context, args, plan);
}

void Embedding(const Context& context, const EmbeddingArgs& args) {
  const int64_t tokens = Dim(args.token, 0);
  CheckInternal(args.weight != nullptr, "embedding without a weight");
  const Weight& weight = *args.weight;
  Check(weight.format == QuantFormat::kNested || weight.format == QuantFormat::kNested12 ||
            (weight.format == QuantFormat::kPlain &&
             (weight.values.dtype == DType::kF32 || weight.values.dtype == DType::kF16 ||
              weight.values.dtype == DType::kBF16)),
        ErrorCode::kUnsupported, "embedding: a table of ", GetQuantFormatInfo(weight.format).name,
        " ", DTypeName(weight.values.dtype));
  CheckView("embedding", "token", args.token, DType::kI32, {tokens});
  const DType dtype = ActivationOf(context, "embedding", "y", args.y);
  CheckView("embedding", "y", args.y, dtype, {tokens, weight.k});
  Ops(context).embedding(context, args);
}

void GatherRows(const Context& context, const GatherRowsArgs& args) {
  const int64_t count = Dim(args.row, 0);
  const int64_t width = Dim(args.x, 1);
  const DType dtype = ActivationOf(context, "gather_rows", "x", args.x);
  CheckView("gather_rows", "x", args.x, dtype, {Dim(args.x, 0), width});
  CheckView("gather_rows", "row", args.row, DType::kI32, {count});
  CheckView("gather_rows", "y", args.y, dtype, {count, width});
  Ops(context).gather_rows(context, args);
}

void ResolveTokens(const Context& context, const ResolveTokensArgs& args) {
  const int64_t tokens = Dim(args.token, 0);
  CheckView("resolve_tokens", "source", args.source, DType::kI32, {tokens});
  CheckView("resolve_tokens", "previous", args.previous, DType::kI32, {Dim(args.previous, 0)});
  CheckView("resolve_tokens", "token", args.token, DType::kI32, {tokens});
  Ops(context).resolve_tokens(context, args);
}

int64_t SampleWorkspaceBytes(const Context& context, int64_t vocabulary) {
  if (context.device.type != DeviceType::kCpu) {
    return 0;
  }
  CheckInternal(context.threads != nullptr, "a CPU context needs a thread pool");
  return context.threads->num_threads() * SampleScratch::Bytes(vocabulary);
}

void Sample(const Context& context, const SampleArgs& args) {
  const int64_t count = Dim(args.logits, 0);
  const int64_t vocabulary = Dim(args.logits, 1);
  const int64_t tokens = Dim(args.token_ids, 0);
  CheckView("sample", "logits", args.logits, DType::kF32, {count, vocabulary});
  CheckView("sample", "token_ids", args.token_ids, DType::kI32, {tokens});
  const auto require = [](bool condition, const char* what) {
    Check(condition, ErrorCode::kInvalidArgument, "sample: ", what);
  };
  require(vocabulary > 0, "an empty vocabulary");
  require(0 <= args.drawable && args.drawable <= vocabulary,
          "drawable tokens not in the vocabulary");
  require(args.tokens.size() == args.rows.size(), "rows and tokens differ in number");
  const int64_t scores = static_cast<int64_t>(args.scores.size());
  const bool readable = context.device.type == DeviceType::kCpu;
  for (const SampleRow& row : readable ? args.rows : std::span<const SampleRow>()) {
    require(0 <= row.logit_row && row.logit_row < count, "a row of logits that is not there");
    require(row.token < vocabulary, "a given token outside the vocabulary");
    require(row.state < static_cast<int64_t>(args.states.size()), "a state that is not there");
    require(row.append_row < tokens && (row.append_row < 0 || row.state >= 0),
            "an appended token that is not there");
    require(0 <= row.score_begin && 0 <= row.num_scores &&
                row.score_begin + row.num_scores <= scores && row.num_scores <= vocabulary + 1,
            "no room for scores");
  }
  CheckWorkspace("sample", context, SampleWorkspaceBytes(context, vocabulary));
  Ops(context).sample(context, args);
}

}  // namespace dualfp
