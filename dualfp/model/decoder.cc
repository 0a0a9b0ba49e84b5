#include "dualfp/model/decoder.h"

#include <algorithm>
#include <cmath>

#include "dualfp/base/check.h"
#include "dualfp/kernels/attention.h"
#include "dualfp/kernels/embedding.h"
#include "dualfp/kernels/norm.h"
#include "dualfp/kernels/rope.h"
#include "dualfp/model/rope_frequencies.h"

namespace dualfp {
namespace {

// `options` with every limit stated. Throws kInvalidArgument for what the model cannot do.
DecoderOptions Complete(const Model& model, DecoderOptions options) {
  DecoderLimits& limits = options.limits;
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
  return options;
}

// Columns [begin, end) of a matrix as [rows, heads, head_dim].
TensorView Heads(const TensorView& matrix, int64_t begin, int64_t heads, int64_t head_dim) {
  TensorView view(matrix.as<float>() + begin, matrix.dtype, {matrix.shape[0], heads, head_dim});
  view.strides[0] = matrix.strides[0];
  return view;
}

}  // namespace

GemmArgs Decoder::ArgsOf(const Linear& linear, LinearKind kind, bool head, int64_t rows) const {
  const Weight& weight = linear.weight;
  const bool gated = !head && kind == LinearKind::kGateUp;
  void* somewhere = const_cast<void*>(weight.values.data);
  GemmArgs args;
  args.x = ConstTensorView(somewhere, kActivationDType, {rows, weight.k});
  args.y = TensorView(somewhere, kActivationDType, {rows, gated ? weight.n / 2 : weight.n});
  args.weight = &weight;
  args.bias = linear.bias;
  if (!head && (kind == LinearKind::kO || kind == LinearKind::kDown)) {
    args.residual = args.y;
  }
  args.activation = gated ? Activation::kSiluMul : Activation::kNone;
  args.activation_quant = ActivationOf(linear);
  return args;
}

std::vector<Decoder::Stage> Decoder::MakeStages() const {
  std::vector<Stage> stages;
  const auto add_stage = [&](const Linear& linear, LinearKind kind, bool head) {
    Stage stage{&linear, {}};
    GemmArgs args = ArgsOf(linear, kind, head, 1);
    for (const Precision precision : {Precision::kExact, Precision::kFp8, Precision::kFp4}) {
      args.precision = precision;
      const bool wanted =
          head ? model_.HeadComputesAt(precision) : linear.weight.Unsupported(precision).empty();
      stage.offers[static_cast<int>(precision)] =
          wanted && GemmUnsupported(DescribeGemm(args)).empty();
    }
    CheckInternal(stage.offers[static_cast<int>(Precision::kExact)], linear.name, " without FP16");
    stages.push_back(stage);
  };
  for (const LayerWeights& layer : model_.layers) {
    int kind = 0;
    for (const Linear* linear : layer.linears()) {
      add_stage(*linear, static_cast<LinearKind>(kind++), false);
    }
  }
  add_stage(model_.lm_head, LinearKind::kQkv, true);
  return stages;
}

AttentionShape Decoder::attention_shape() const {
  return {model_.heads(), model_.kv_heads(), model_.config.head_dim};
}

Decoder::Decoder(const Model& model, const DecoderOptions& options)
    : model_(model),
      options_(Complete(model, options)),
      stages_(MakeStages()),
      attention_plan_(MakeAttentionPlan(DeviceType::kCpu, attention_shape(),
                                        {.max_rows = options_.limits.max_tokens,
                                         .max_sequences = options_.limits.max_sequences,
                                         .max_context = options_.limits.max_context})),
      activations_(model, options_.limits.max_tokens, options_.limits.max_logit_rows,
                   std::max(WorkspaceBytes(std::max(options_.limits.max_tokens,
                                                    options_.limits.max_logit_rows)),
                            attention_plan_.workspace_bytes)) {
  ranges_.reserve(options_.limits.max_tokens + options_.limits.max_logit_rows);
  ForEachProduct(options_.limits.max_tokens, [this](const GemmDesc& product) {
    rows_independent_ = rows_independent_ && GemmRowsAreIndependent(product);
  });
}

StepBatch Decoder::NewBatch() const {
  const DecoderLimits& limits = options_.limits;
  return StepBatch({.max_rows = limits.max_tokens,
                    .max_sequences = limits.max_sequences,
                    .max_logit_rows = limits.max_logit_rows,
                    .max_context = limits.max_context,
                    .block_size = kKvBlockSize},
                   &model_.config.rope);
}

template <typename Visit>
void Decoder::ForEachProduct(int64_t rows, const Visit& visit) const {
  // Every linear layer at every precision that it offers.
  for (size_t i = 0; i < stages_.size(); ++i) {
    const Stage& stage = stages_[i];
    GemmArgs args = ArgsOf(*stage.linear, static_cast<LinearKind>(i % kLinearsPerLayer),
                           i + 1 == stages_.size(), rows);
    for (const Precision precision : {Precision::kExact, Precision::kFp8, Precision::kFp4}) {
      if (stage.offers[static_cast<int>(precision)]) {
        args.precision = precision;
        visit(DescribeGemm(args));
      }
    }
  }
}

int64_t Decoder::WorkspaceBytes(int64_t rows) const {
  int64_t bytes = 0;
  ForEachProduct(rows, [&bytes](const GemmDesc& product) {
    bytes = std::max(bytes, GemmWorkspaceBytes(product));
  });
  return bytes;
}

void Decoder::CheckStep(const StepBatch& batch, const KvCache& cache,
                        const TensorView& logits) const {
  const DecoderLimits& limits = options_.limits;
  const ModelConfig& config = model_.config;
  const auto check = [](bool condition, const auto&... parts) {
    Check(condition, ErrorCode::kInvalidArgument, parts...);
  };
  const KvCacheConfig& cached = cache.config();
  check(cached.num_layers == config.num_hidden_layers && cached.num_kv_heads == model_.kv_heads() &&
            cached.head_dim == config.head_dim,
        "the key-value cache belongs to another model");
  check(batch.limits().block_size == kKvBlockSize, "a step in cache blocks of ",
        batch.limits().block_size, " tokens, expected ", kKvBlockSize);
  check(1 <= batch.sequences() && batch.sequences() <= limits.max_sequences, "a step of ",
        batch.sequences(), " sequences, expected 1 to ", limits.max_sequences);
  check(batch.rows() <= limits.max_tokens, "a step of ", batch.rows(), " tokens, expected at most ",
        limits.max_tokens);
  for (const int32_t token : batch.token_ids()) {
    check(0 <= token && token < config.vocab_size, "token ", token,
          " is outside the vocabulary of ", config.vocab_size);
  }
  for (int64_t sequence = 0; sequence < batch.sequences(); ++sequence) {
    const int64_t length = batch.context_length()[sequence];
    check(length <= limits.max_context, "a sequence of ", length,
          " tokens exceeds the context length ", limits.max_context);
    for (const int32_t block : batch.blocks(sequence).first(KvBlocksFor(length))) {
      check(0 <= block && block < cached.num_blocks, "cache block ", block, ", expected one below ",
            cached.num_blocks);
    }
  }
  const int64_t logit_rows = batch.num_logit_rows();
  check(logit_rows <= limits.max_logit_rows, "logits of ", logit_rows, " rows, expected at most ",
        limits.max_logit_rows);
  check(logit_rows == 0 || (logits.dtype == DType::kF32 && logits.rank == 2 &&
                            logits.shape[0] == logit_rows && logits.shape[1] == config.vocab_size),
        "logits are ", Describe(logits), ", expected F32[", logit_rows, ", ", config.vocab_size,
        "]");
  CheckPlans(batch);
}

void Decoder::CheckPlans(const StepBatch& batch) const {
  const int64_t layers = model_.config.num_hidden_layers;
  const auto check = [](bool condition, const auto&... parts) {
    Check(condition, ErrorCode::kInvalidArgument, parts...);
  };
  int64_t covered = 0;
  for (const PlanRange& range : batch.plans()) {
    check(range.begin == covered && range.end > range.begin && range.plan != nullptr,
          "precision plans must cover all rows in ascending ranges");
    check(static_cast<int64_t>(range.plan->layers.size()) == layers, "a precision plan of ",
          range.plan->layers.size(), " layers, expected ", layers);
    const auto linears = static_cast<int64_t>(range.plan->linears.size());
    check(linears == 0 || linears == layers * kLinearsPerLayer, "a precision plan of ", linears,
          " linear layers, expected none or ", layers * kLinearsPerLayer);
    covered = range.end;
  }
  check(covered == batch.rows(), "precision plans cover ", covered, " of ", batch.rows(), " rows");
}

void Decoder::AddRange(RowRange range) {
  if (!ranges_.empty() && ranges_.back().precision == range.precision) {
    ranges_.back().end = range.end;
  } else {
    ranges_.push_back(range);
  }
}

std::span<const RowRange> Decoder::RowRanges(const StepBatch& batch, int64_t layer,
                                             LinearKind kind) {
  const Stage& stage = StageOf(layer, kind);
  ranges_.clear();
  for (const PlanRange& range : batch.plans()) {
    AddRange({range.begin, range.end, Effective(stage, range.plan->At(layer, kind))});
  }
  return ranges_;
}

std::span<const RowRange> Decoder::LogitRanges(const StepBatch& batch) {
  ranges_.clear();
  for (int64_t i = 0; i < batch.num_logit_rows(); ++i) {
    const auto plan = std::ranges::find_if(
        batch.plans(), [&](const PlanRange& range) { return batch.logit_rows()[i] < range.end; });
    AddRange({i, i + 1, Effective(HeadStage(), plan->plan->lm_head)});
  }
  return ranges_;
}

void Decoder::RunLinear(const Context& context, const Stage& stage,
                        std::span<const RowRange> ranges, GemmArgs args) const {
  args.weight = &stage.linear->weight;
  args.bias = stage.linear->bias;
  args.activation_quant = ActivationOf(*stage.linear);
  if (options_.observe_input) {
    options_.observe_input(*stage.linear, args.x);
  }
  GemmRows(context, args, ranges);
}

void Decoder::RunLayer(const Context& context, const StepBatch& batch, int64_t layer,
                       const KvCache& cache, const ActivationTensors& tensors) {
  const ModelConfig& config = model_.config;
  const LayerWeights& weights = model_.layers[layer];
  const auto epsilon = static_cast<float>(config.rms_norm_eps);
  const int64_t heads = model_.heads();
  const int64_t kv_heads = model_.kv_heads();
  const int64_t dim = config.head_dim;
  const BatchTensors inputs = batch.tensors();
  const PagedKv& kv = cache.layer(layer);
  const auto run = [&](LinearKind kind, const GemmArgs& args) {
    RunLinear(context, StageOf(layer, kind), RowRanges(batch, layer, kind), args);
  };

  RmsNorm(context, {tensors.hidden, weights.input_norm, epsilon, tensors.normed});
  run(LinearKind::kQkv, {.x = tensors.normed, .y = tensors.qkv});
  const TensorView q = Heads(tensors.qkv, 0, heads, dim);
  const TensorView k = Heads(tensors.qkv, heads * dim, kv_heads, dim);
  const TensorView v = Heads(tensors.qkv, (heads + kv_heads) * dim, kv_heads, dim);
  RotateAndCache(context, {.cos_sin = tensors.cos_sin,
                           .query = q,
                           .key = k,
                           .value = v,
                           .query_weight = weights.q_norm,
                           .key_weight = weights.k_norm,
                           .epsilon = epsilon,
                           .slot = inputs.slots,
                           .cache = kv});
  PagedAttention(
      context,
      {.query = q,
       .cache = kv,
       .query_start = inputs.query_start,
       .context_length = inputs.context_length,
       .block_table = inputs.block_table,
       .scale = 1.0f / std::sqrt(static_cast<float>(dim)),
       .sliding_window = config.layer_window[layer],
       .out = TensorView(tensors.attention.data, kActivationDType, {batch.rows(), heads, dim})},
      attention_plan_);
  run(LinearKind::kO, {.x = tensors.attention, .y = tensors.hidden, .residual = tensors.hidden});

  RmsNorm(context, {tensors.hidden, weights.post_attention_norm, epsilon, tensors.normed});
  run(LinearKind::kGateUp,
      {.x = tensors.normed, .y = tensors.mlp, .activation = Activation::kSiluMul});
  run(LinearKind::kDown, {.x = tensors.mlp, .y = tensors.hidden, .residual = tensors.hidden});
}

void Decoder::Forward(const Context& context, const StepBatch& batch, KvCache& cache,
                      const TensorView& logits) {
  CheckStep(batch, cache, logits);
  PlanPagedAttention(context.device.type, attention_shape(), batch.query_start(),
                     batch.context_length(), &attention_plan_);
  const BatchTensors inputs = batch.tensors();
  const ActivationTensors tensors = activations_.First(batch.rows(), batch.num_logit_rows());
  Context run = context;
  run.workspace = tensors.workspace;
  RotaryTable(run, {.position = inputs.positions,
                    .row = inputs.rope_rows,
                    .inv_freq = inputs.inv_freq,
                    .scale = RopeAttentionFactor(model_.config.rope),
                    .cos_sin = tensors.cos_sin});
  Embedding(run, {&model_.embedding.weight, inputs.token_ids, tensors.hidden});
  for (int64_t layer = 0; layer < model_.config.num_hidden_layers; ++layer) {
    RunLayer(run, batch, layer, cache, tensors);
  }
  if (batch.num_logit_rows() == 0) {
    return;
  }
  GatherRows(run, {tensors.hidden, inputs.logit_rows, tensors.last_hidden});
  RmsNorm(run, {tensors.last_hidden, model_.final_norm,
                static_cast<float>(model_.config.rms_norm_eps), tensors.last_hidden});
  RunLinear(run, HeadStage(), LogitRanges(batch), {.x = tensors.last_hidden, .y = logits});
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
    cost.linears_at_fp16 += precision == Precision::kExact ? 1 : 0;
    cost.linears_at_fp8 += precision == Precision::kFp8 ? 1 : 0;
    // lm_head is not quantized by default; that is no fallback.
    cost.fallbacks += precision != wanted && !head ? 1 : 0;
  }
  return cost;
}

}  // namespace dualfp
