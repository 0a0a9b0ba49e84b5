// The runner for a model in this process on the CPU: a Decoder and its paged KV cache.

#pragma once

#include <cstdint>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/engine/model_runner.h"
#include "dualfp/engine/sampling/batch_sampler.h"
#include "dualfp/model/decoder.h"
#include "dualfp/model/kv_cache.h"
#include "dualfp/model/model.h"
#include "dualfp/tensor/buffer.h"

namespace dualfp {

struct DecoderRunnerConfig {
  int64_t num_blocks = 0;        // of kKvBlockSize tokens
  DType kv_dtype = DType::kF16;  // F32, F16 or F8_E4M3 (with the checkpoint's k_scale, v_scale)
  int64_t max_model_len = 0;     // 0: the model's
  int64_t max_num_batched_tokens = 2048;
  int max_num_seqs = 256;
  int64_t max_logit_rows = 0;  // 0: as many as sequences, and 64 at least
  // With 2, the engine plans a step before it has the tokens of the one before, as on a device that
  // runs while the host plans. Here nothing runs meanwhile: for tests.
  int max_steps_in_flight = 1;
  std::optional<ActivationQuant> activation_quant;  // nothing: as each layer says
  int64_t drawable_tokens = 0;  // of the vocabulary, those that have a text; 0: all
};

class DecoderRunner : public ModelRunner {
 public:
  // Model and threads outlive the runner; the threads serve nobody else during Launch().
  // Throws kResourceExhausted when the KV cache does not fit in memory.
  DecoderRunner(const Model& model, const DecoderRunnerConfig& config, ThreadPool* threads);

  const RunnerInfo& info() const override { return info_; }
  uint64_t CacheClass(int64_t max_length) const override;
  StepBatch NewBatch(const BatchLimits& limits) const override {
    return {limits, &model_.config.rope};
  }
  void SetSamplingState(int64_t seat, const SamplingHistory& history) override {
    sampler_.SetState(seat, history);
  }
  // Computes the step.
  void Launch(StepBatch* batch) override;
  void Wait() override;

  int64_t kv_bytes() const { return cache_.num_bytes(); }

 private:
  void CopyBlocks(std::span<const BlockCopy> copies);

  const Model& model_;
  RunnerInfo info_;
  Context context_;
  KvCache cache_;
  std::vector<TensorView> cache_planes_;  // keys and values of every layer, first axis: blocks
  Decoder decoder_;
  Buffer logits_;
  BatchSampler sampler_;
  std::vector<int32_t> previous_tokens_;  // of the step before
  int num_in_flight_ = 0;
};

// Blocks that fit in `bytes` of memory, for a model and cache type; at least 1.
int64_t KvBlocksInBytes(const Model& model, DType kv_dtype, int64_t bytes);

}  // namespace dualfp
