#include "dualfp/model/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "dualfp/base/check.h"
#include "dualfp/kernels/attention.h"
#include "dualfp/kernels/embedding.h"
#include "dualfp/kernels/norm.h"
#include "dualfp/kernels/rope.h"
#include "dualfp/model/rope_frequencies.h"

namespace dualfp {
namespace {

constexpr int64_t kAlignment = 256;

// The dtype of hidden states; weights have their own. CPU kernels compute in F32.
constexpr DType kActivationDType = DType::kF32;

// Hands out consecutive pieces of memory; with no base it only measures.
class Bump {
 public:
  explicit Bump(char* base) : base_(base) {}

  TensorView Take(DType dtype, std::initializer_list<int64_t> shape) {
    TensorView view(base_ == nullptr ? nullptr : base_ + used_, dtype, shape);
    used_ += (view.num_bytes() + kAlignment - 1) / kAlignment * kAlignment;
    return view;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// Columns [begin, end) of a matrix as [rows, heads, head_dim].
TensorView Heads(const TensorView& matrix, int64_t begin, int64_t heads, int64_t head_dim) {
  TensorView view(matrix.as<float>() + begin, matrix.dtype, {matrix.shape[0], heads, head_dim});
  view.strides[0] = matrix.strides[0];
  return view;
}

}  // namespace

// The tensors of one step.
struct Decoder::Arena {
  // Inputs, written by the host before the first op.
  TensorView token;           // I32 [rows]
  TensorView position;        // I32 [rows]
  TensorView frequency_row;   // I32 [rows]
  TensorView slot;            // I32 [rows]
  TensorView query_start;     // I32 [sequences + 1]
  TensorView context_length;  // I32 [sequences]
  TensorView block_table;     // I32 [sequences, blocks]
  TensorView logit_row;       // I32 [logit_rows]
  TensorView inv_freq;        // F32 [sequences, rotary_dim / 2]

  TensorView cos_sin;      // F32 [rows, rotary_dim]
  TensorView hidden;       // [rows, hidden]: the residual stream
  TensorView normed;       // [rows, hidden]
  TensorView qkv;          // [rows, (heads + 2 * kv_heads) * head_dim]
  TensorView attention;    // [rows, heads * head_dim]
  TensorView mlp;          // [rows, intermediate]
  TensorView last_hidden;  // [logit_rows, hidden]
  TensorView workspace;    // U8
  int64_t num_bytes = 0;
};

Decoder::Decoder(const Model& model, const DecoderOptions& options)
    : model_(model), options_(options) {
  DecoderLimits& limits = options_.limits;
  const int64_t longest = MaxContextLength(model.config);
  if (limits.max_context == 0) {
    limits.max_context = longest;
  }
  Check(limits.max_context >= 1 && limits.max_context <= longest, ErrorCode::kInvalidArgument,
        "context length ", limits.max_context, ", expected 1 to ", longest,
        " (the model's max_position_embeddings and RoPE scaling)");
  Check(limits.max_tokens >= 1 && limits.max_sequences >= 1 && limits.max_logit_rows >= 0,
        ErrorCode::kInvalidArgument, "decoder limits must be positive");
  Check(model.shard.size == 1, ErrorCode::kUnsupported, "a decoder over one of ", model.shard.size,
        " shards needs a collective");

  const auto add_stage = [this](const Linear& linear) {
    Stage stage{&linear, {}};
    for (const Precision precision : {Precision::kFp16, Precision::kFp8, Precision::kFp4}) {
      stage.offers[static_cast<int>(precision)] = linear.weight.Unsupported(precision).empty();
    }
    CheckInternal(stage.offers[static_cast<int>(Precision::kFp16)], linear.name, " without FP16");
    stages_.push_back(stage);
  };
  for (const LayerWeights& layer : model.layers) {
    for (const Linear* linear : layer.linears()) {
      add_stage(*linear);
    }
  }
  add_stage(model.lm_head);

  if (!RopeDependsOnLength(model.config.rope)) {
    fixed_frequencies_.resize(model.config.rope.rotary_dim / 2);
    ComputeRopeFrequencies(model.config.rope, 0, fixed_frequencies_);
  }
  workspace_bytes_ = WorkspaceBytes(std::max(limits.max_tokens, limits.max_logit_rows));
  const Arena largest = LayOut(nullptr, limits.max_tokens, limits.max_sequences,
                               KvBlocksFor(limits.max_context), limits.max_logit_rows);
  arena_ = Buffer::AllocateCpu(largest.num_bytes);
  ranges_.reserve(limits.max_tokens + limits.max_logit_rows);
}

int64_t Decoder::WorkspaceBytes(int64_t rows) const {
  // Every linear layer at every precision that it offers; the pointers only have to be there.
  int64_t bytes = 0;
  for (size_t i = 0; i < stages_.size(); ++i) {
    const Stage& stage = stages_[i];
    const Weight& weight = stage.linear->weight;
    const bool head = i + 1 == stages_.size();
    const auto kind = static_cast<LinearKind>(i % kLinearsPerLayer);
    const bool gated = !head && kind == LinearKind::kGateUp;
    void* somewhere = const_cast<void*>(weight.values.data);
    GemmArgs args;
    args.x = ConstTensorView(somewhere, kActivationDType, {rows, weight.k});
    args.y = TensorView(somewhere, kActivationDType, {rows, gated ? weight.n / 2 : weight.n});
    args.weight = &weight;
    args.bias = stage.linear->bias;
    if (!head && (kind == LinearKind::kO || kind == LinearKind::kDown)) {
      args.residual = args.y;
    }
    args.activation = gated ? Activation::kSiluMul : Activation::kNone;
    args.activation_quant = options_.activation_quant;
    for (const Precision precision : {Precision::kFp16, Precision::kFp8, Precision::kFp4}) {
      if (stage.offers[static_cast<int>(precision)]) {
        args.precision = precision;
        bytes = std::max(bytes, GemmWorkspaceBytes(DescribeGemm(args)));
      }
    }
  }
  return bytes;
}

Decoder::Arena Decoder::LayOut(char* base, int64_t rows, int64_t sequences, int64_t blocks,
                               int64_t logit_rows) const {
  const ModelConfig& config = model_.config;
  const int64_t dim = config.head_dim;
  Bump bump(base);
  Arena arena;
  arena.token = bump.Take(DType::kI32, {rows});
  arena.position = bump.Take(DType::kI32, {rows});
  arena.frequency_row = bump.Take(DType::kI32, {rows});
  arena.slot = bump.Take(DType::kI32, {rows});
  arena.query_start = bump.Take(DType::kI32, {sequences + 1});
  arena.context_length = bump.Take(DType::kI32, {sequences});
  arena.block_table = bump.Take(DType::kI32, {sequences, blocks});
  arena.logit_row = bump.Take(DType::kI32, {logit_rows});
  arena.inv_freq = bump.Take(DType::kF32, {sequences, config.rope.rotary_dim / 2});
  arena.cos_sin = bump.Take(DType::kF32, {rows, config.rope.rotary_dim});
  arena.hidden = bump.Take(kActivationDType, {rows, config.hidden_size});
  arena.normed = bump.Take(kActivationDType, {rows, config.hidden_size});
  arena.qkv = bump.Take(kActivationDType, {rows, (model_.heads() + 2 * model_.kv_heads()) * dim});
  arena.attention = bump.Take(kActivationDType, {rows, model_.heads() * dim});
  arena.mlp = bump.Take(kActivationDType, {rows, model_.intermediate()});
  arena.last_hidden = bump.Take(kActivationDType, {logit_rows, config.hidden_size});
  arena.workspace = bump.Take(DType::kU8, {workspace_bytes_});
  arena.num_bytes = bump.used();
  return arena;
}

int64_t Decoder::CheckStep(const Step& step, const KvCache& cache, const TensorView& logits) const {
  const DecoderLimits& limits = options_.limits;
  const ModelConfig& config = model_.config;
  const auto check = [](bool condition, const auto&... parts) {
    Check(condition, ErrorCode::kInvalidArgument, parts...);
  };
  const KvCacheConfig& cached = cache.config();
  check(cached.num_layers == config.num_hidden_layers && cached.num_kv_heads == model_.kv_heads() &&
            cached.head_dim == config.head_dim,
        "the key-value cache belongs to another model");
  check(!step.sequences.empty() &&
            static_cast<int64_t>(step.sequences.size()) <= limits.max_sequences,
        "a step of ", step.sequences.size(), " sequences, expected 1 to ", limits.max_sequences);
  int64_t rows = 0;
  for (const StepSequence& sequence : step.sequences) {
    const auto count = static_cast<int64_t>(sequence.tokens.size());
    const int64_t length = sequence.position + count;
    check(count >= 1 && sequence.position >= 0, "a sequence of ", count, " tokens at position ",
          sequence.position);
    check(length <= limits.max_context, "a sequence of ", length,
          " tokens exceeds the context length ", limits.max_context);
    check(static_cast<int64_t>(sequence.blocks.size()) >= KvBlocksFor(length), "a sequence of ",
          length, " tokens with ", sequence.blocks.size(), " cache blocks");
    for (const int32_t token : sequence.tokens) {
      check(0 <= token && token < config.vocab_size, "token ", token,
            " is outside the vocabulary of ", config.vocab_size);
    }
    for (int64_t i = 0; i < KvBlocksFor(length); ++i) {
      check(0 <= sequence.blocks[i] && sequence.blocks[i] < cached.num_blocks, "cache block ",
            sequence.blocks[i], ", expected one below ", cached.num_blocks);
    }
    rows += count;
  }
  check(rows <= limits.max_tokens, "a step of ", rows, " tokens, expected at most ",
        limits.max_tokens);
  const auto logit_rows = static_cast<int64_t>(step.logit_rows.size());
  check(logit_rows <= limits.max_logit_rows, "logits of ", logit_rows, " rows, expected at most ",
        limits.max_logit_rows);
  for (const int32_t row : step.logit_rows) {
    check(0 <= row && row < rows, "logits of row ", row, " in a step of ", rows);
  }
  check(logit_rows == 0 || (logits.dtype == DType::kF32 && logits.rank == 2 &&
                            logits.shape[0] == logit_rows && logits.shape[1] == config.vocab_size),
        "logits are ", Describe(logits), ", expected F32[", logit_rows, ", ", config.vocab_size,
        "]");
  int64_t covered = 0;
  for (const PlanRange& range : step.plans) {
    check(range.begin == covered && range.end > range.begin && range.plan != nullptr,
          "precision plans must cover all rows in ascending ranges");
    check(static_cast<int64_t>(range.plan->layers.size()) == config.num_hidden_layers,
          "a precision plan of ", range.plan->layers.size(), " layers, expected ",
          config.num_hidden_layers);
    const auto linears = static_cast<int64_t>(range.plan->linears.size());
    check(linears == 0 || linears == config.num_hidden_layers * kLinearsPerLayer,
          "a precision plan of ", linears, " linear layers, expected none or ",
          config.num_hidden_layers * kLinearsPerLayer);
    covered = range.end;
  }
  check(covered == rows, "precision plans cover ", covered, " of ", rows, " rows");
  return rows;
}

void Decoder::PrepareInputs(const Step& step, const Arena& arena) const {
  const RopeConfig& rope = model_.config.rope;
  const int64_t half = rope.rotary_dim / 2;
  const int64_t table_width = arena.block_table.shape[1];
  int32_t row = 0;
  arena.query_start.as<int32_t>()[0] = 0;
  for (size_t s = 0; s < step.sequences.size(); ++s) {
    const StepSequence& sequence = step.sequences[s];
    const auto count = static_cast<int32_t>(sequence.tokens.size());
    const auto position = static_cast<int32_t>(sequence.position);
    for (int32_t i = 0; i < count; ++i, ++row) {
      const int32_t p = position + i;
      arena.token.as<int32_t>()[row] = sequence.tokens[i];
      arena.position.as<int32_t>()[row] = p;
      arena.frequency_row.as<int32_t>()[row] =
          fixed_frequencies_.empty() ? static_cast<int32_t>(s) : 0;
      arena.slot.as<int32_t>()[row] =
          static_cast<int32_t>(sequence.blocks[p / kKvBlockSize] * kKvBlockSize + p % kKvBlockSize);
    }
    arena.query_start.as<int32_t>()[s + 1] = row;
    arena.context_length.as<int32_t>()[s] = position + count;
    std::memcpy(arena.block_table.as<int32_t>() + static_cast<int64_t>(s) * table_width,
                sequence.blocks.data(), KvBlocksFor(position + count) * sizeof(int32_t));
    if (fixed_frequencies_.empty()) {
      ComputeRopeFrequencies(
          rope, std::max(sequence.rope_length, sequence.position + count),
          {arena.inv_freq.as<float>() + static_cast<int64_t>(s) * half, static_cast<size_t>(half)});
    }
  }
  std::copy(fixed_frequencies_.begin(), fixed_frequencies_.end(), arena.inv_freq.as<float>());
  std::copy(step.logit_rows.begin(), step.logit_rows.end(), arena.logit_row.as<int32_t>());
}

void Decoder::AddRange(RowRange range) {
  if (!ranges_.empty() && ranges_.back().precision == range.precision) {
    ranges_.back().end = range.end;
  } else {
    ranges_.push_back(range);
  }
}

std::span<const RowRange> Decoder::RowRanges(const Step& step, int64_t layer, LinearKind kind) {
  const Stage& stage = StageOf(layer, kind);
  ranges_.clear();
  for (const PlanRange& range : step.plans) {
    AddRange({range.begin, range.end, Effective(stage, range.plan->At(layer, kind))});
  }
  return ranges_;
}

std::span<const RowRange> Decoder::LogitRanges(const Step& step) {
  ranges_.clear();
  for (size_t i = 0; i < step.logit_rows.size(); ++i) {
    const auto plan =
        std::find_if(step.plans.begin(), step.plans.end(),
                     [&](const PlanRange& range) { return step.logit_rows[i] < range.end; });
    const auto begin = static_cast<int64_t>(i);
    AddRange({begin, begin + 1, Effective(HeadStage(), plan->plan->lm_head)});
  }
  return ranges_;
}

void Decoder::RunLinear(const Context& context, const Stage& stage,
                        std::span<const RowRange> ranges, GemmArgs args) const {
  args.weight = &stage.linear->weight;
  args.bias = stage.linear->bias;
  args.activation_quant = options_.activation_quant;
  if (options_.observe_input) {
    options_.observe_input(*stage.linear, args.x);
  }
  GemmRows(context, args, ranges);
}

void Decoder::RunLayer(const Context& context, const Step& step, int64_t layer,
                       const KvCache& cache, const Arena& arena) {
  const ModelConfig& config = model_.config;
  const LayerWeights& weights = model_.layers[layer];
  const auto epsilon = static_cast<float>(config.rms_norm_eps);
  const int64_t heads = model_.heads();
  const int64_t kv_heads = model_.kv_heads();
  const int64_t dim = config.head_dim;
  const int64_t rows = arena.hidden.shape[0];
  const PagedKv& kv = cache.layer(layer);
  const auto run = [&](LinearKind kind, const GemmArgs& args) {
    RunLinear(context, StageOf(layer, kind), RowRanges(step, layer, kind), args);
  };

  RmsNorm(context, {arena.hidden, weights.input_norm, epsilon, arena.normed});
  run(LinearKind::kQkv, {.x = arena.normed, .y = arena.qkv});
  const TensorView q = Heads(arena.qkv, 0, heads, dim);
  const TensorView k = Heads(arena.qkv, heads * dim, kv_heads, dim);
  const TensorView v = Heads(arena.qkv, (heads + kv_heads) * dim, kv_heads, dim);
  if (weights.q_norm) {
    RmsNorm(context, {q, weights.q_norm, epsilon, q});
    RmsNorm(context, {k, weights.k_norm, epsilon, k});
  }
  // q and k heads lie side by side and turn alike.
  ApplyRotary(context, {arena.cos_sin, Heads(arena.qkv, 0, heads + kv_heads, dim)});
  WriteKvCache(context, {k, v, arena.slot, kv});
  PagedAttention(context,
                 {.query = q,
                  .cache = kv,
                  .query_start = arena.query_start,
                  .context_length = arena.context_length,
                  .block_table = arena.block_table,
                  .scale = 1.0f / std::sqrt(static_cast<float>(dim)),
                  .sliding_window = config.layer_window[layer],
                  .out = TensorView(arena.attention.data, kActivationDType, {rows, heads, dim})});
  run(LinearKind::kO, {.x = arena.attention, .y = arena.hidden, .residual = arena.hidden});

  RmsNorm(context, {arena.hidden, weights.post_attention_norm, epsilon, arena.normed});
  run(LinearKind::kGateUp, {.x = arena.normed, .y = arena.mlp, .activation = Activation::kSiluMul});
  run(LinearKind::kDown, {.x = arena.mlp, .y = arena.hidden, .residual = arena.hidden});
}

void Decoder::Forward(const Context& context, const Step& step, KvCache& cache,
                      const TensorView& logits) {
  const int64_t rows = CheckStep(step, cache, logits);
  int64_t blocks = 0;
  for (const StepSequence& sequence : step.sequences) {
    blocks = std::max(
        blocks, KvBlocksFor(sequence.position + static_cast<int64_t>(sequence.tokens.size())));
  }
  const Arena arena =
      LayOut(static_cast<char*>(arena_.data()), rows, static_cast<int64_t>(step.sequences.size()),
             blocks, static_cast<int64_t>(step.logit_rows.size()));
  CheckInternal(arena.num_bytes <= arena_bytes(), "a step of ", arena.num_bytes,
                " bytes in an arena of ", arena_bytes());
  PrepareInputs(step, arena);

  Context run = context;
  run.workspace = arena.workspace;
  RotaryTable(run, {.position = arena.position,
                    .row = arena.frequency_row,
                    .inv_freq = arena.inv_freq,
                    .scale = RopeAttentionFactor(model_.config.rope),
                    .cos_sin = arena.cos_sin});
  Embedding(run, {&model_.embedding.weight, arena.token, arena.hidden});
  for (int64_t layer = 0; layer < model_.config.num_hidden_layers; ++layer) {
    RunLayer(run, step, layer, cache, arena);
  }
  if (step.logit_rows.empty()) {
    return;
  }
  GatherRows(run, {arena.hidden, arena.logit_row, arena.last_hidden});
  RmsNorm(run, {arena.last_hidden, model_.final_norm,
                static_cast<float>(model_.config.rms_norm_eps), arena.last_hidden});
  RunLinear(run, HeadStage(), LogitRanges(step), {.x = arena.last_hidden, .y = logits});
}

PlanCost Decoder::CostOf(const PrecisionPlan& plan) const {
  PlanCost cost;
  for (size_t i = 0; i < stages_.size(); ++i) {
    const Stage& stage = stages_[i];
    const bool head = i + 1 == stages_.size();
    const auto layer = static_cast<int64_t>(i) / kLinearsPerLayer;
    const auto kind = static_cast<LinearKind>(i % kLinearsPerLayer);
    const Precision wanted = head ? plan.lm_head : plan.At(layer, kind);
    const Precision precision = Effective(stage, wanted);
    cost.weight_bytes += stage.linear->weight.BytesRead(precision);
    cost.linears_at_fp16 += precision == Precision::kFp16 ? 1 : 0;
    cost.linears_at_fp8 += precision == Precision::kFp8 ? 1 : 0;
    // lm_head is not quantized by default; that is no fallback.
    cost.fallbacks += precision != wanted && !head ? 1 : 0;
  }
  return cost;
}

}  // namespace dualfp
