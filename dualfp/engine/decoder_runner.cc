#include "dualfp/engine/decoder_runner.h"

#include <algorithm>
#include <cstring>

#include "dualfp/base/check.h"
#include "dualfp/model/rope_frequencies.h"

namespace dualfp {
namespace {

constexpr int64_t kMinLogitRows = 64;

DecoderOptions MakeDecoderOptions(const Model& model, const DecoderRunnerConfig& config) {
  const int64_t longest = MaxContextLength(model.config);
  Check(config.max_model_len >= 0 && config.max_model_len <= longest, ErrorCode::kInvalidArgument,
        "max_model_len is ", config.max_model_len, "; the model's context has ", longest,
        " tokens");
  Check(config.max_num_seqs >= 1 && config.max_num_batched_tokens >= config.max_num_seqs,
        ErrorCode::kInvalidArgument, "max_num_seqs is ", config.max_num_seqs,
        " and max_num_batched_tokens ", config.max_num_batched_tokens,
        ", expected at least 1 and not less than that");
  DecoderOptions options;
  options.limits.max_tokens = config.max_num_batched_tokens;
  options.limits.max_sequences = config.max_num_seqs;
  options.limits.max_context = config.max_model_len;
  options.limits.max_logit_rows = std::max<int64_t>(
      config.max_logit_rows == 0 ? kMinLogitRows : config.max_logit_rows, config.max_num_seqs);
  options.activation_quant = config.activation_quant;
  return options;
}

}  // namespace

int64_t KvBlocksInBytes(const Model& model, DType kv_dtype, int64_t bytes) {
  return std::max<int64_t>(1, bytes / model.KvCacheFor(kv_dtype, 1).BytesPerBlock());
}

DecoderRunner::DecoderRunner(const Model& model, const DecoderRunnerConfig& config,
                             ThreadPool* threads)
    : model_(model),
      cache_(model.KvCacheFor(config.kv_dtype, config.num_blocks)),
      decoder_(model, MakeDecoderOptions(model, config)),
      sampler_(config.max_num_seqs, model.config.vocab_size, config.drawable_tokens, threads) {
  context_.threads = threads;
  const DecoderLimits& limits = decoder_.options().limits;
  info_.vocab_size = model.config.vocab_size;
  info_.num_layers = static_cast<int>(model.layers.size());
  info_.max_model_len = limits.max_context;
  info_.block_size = static_cast<int>(kKvBlockSize);
  info_.num_blocks = config.num_blocks;
  info_.max_rows = limits.max_tokens;
  info_.max_sequences = static_cast<int>(limits.max_sequences);
  info_.max_logit_rows = limits.max_logit_rows;
  info_.max_steps_in_flight = config.max_steps_in_flight;
  info_.rows_independent = decoder_.rows_independent();
  if (decoder_.CostOf(PrecisionPlan::Uniform(info_.num_layers, Precision::kFp8)).linears_at_fp8 ==
      0) {
    info_.fp8_unsupported =
        "no layer of the model can compute in FP8; load it with --quantization nested";
  }
  for (int layer = 0; layer < info_.num_layers; ++layer) {
    const PagedKv kv = cache_.layer(layer);
    cache_planes_.push_back(kv.key);
    cache_planes_.push_back(kv.value);
  }
  logits_ = Buffer::AllocateCpu(limits.max_logit_rows * info_.vocab_size * sizeof(float));
}

uint64_t DecoderRunner::CacheClass(int64_t max_length) const {
  const RopeConfig& rope = model_.config.rope;
  if (!RopeDependsOnLength(rope)) {
    return 0;
  }
  // Equal frequencies, equal keys: FNV-1a over the bits.
  std::vector<float> frequencies(rope.rotary_dim / 2);
  ComputeRopeFrequencies(rope, max_length, frequencies);
  uint64_t hash = 0xcbf29ce484222325;
  for (const float frequency : frequencies) {
    uint32_t bits;
    std::memcpy(&bits, &frequency, sizeof(bits));
    hash = (hash ^ bits) * 0x100000001b3;
  }
  return hash;
}

void DecoderRunner::CopyBlocks(std::span<const BlockCopy> copies) {
  for (const BlockCopy& copy : copies) {
    for (const TensorView& plane : cache_planes_) {
      const TensorView source = plane.Rows(copy.source, copy.source + 1);
      const TensorView target = plane.Rows(copy.target, copy.target + 1);
      std::memcpy(target.data, source.data, source.num_bytes());
    }
  }
}

void DecoderRunner::Launch(StepBatch* batch) {
  CheckInternal(num_in_flight_ < info_.max_steps_in_flight, "a step beyond those in flight");
  batch->ResolveTokens(previous_tokens_);
  CopyBlocks(batch->copies());
  const TensorView logits = logits_.View(DType::kF32, {batch->num_logit_rows(), info_.vocab_size});
  decoder_.Forward(context_, *batch, cache_, logits);
  sampler_.Run(logits, batch);
  previous_tokens_.assign(batch->tokens().begin(), batch->tokens().end());
  ++num_in_flight_;
}

void DecoderRunner::Wait() {
  CheckInternal(num_in_flight_ > 0, "no step to wait for");
  --num_in_flight_;
}

}  // namespace dualfp
