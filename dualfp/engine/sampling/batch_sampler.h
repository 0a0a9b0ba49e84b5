// What a runner on the host needs to turn a step's logits into what the step yields: the sampling
// op, its workspace, and what sequences remember between draws.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "dualfp/engine/model_runner.h"
#include "dualfp/kernels/sample.h"
#include "dualfp/model/batch.h"
#include "dualfp/tensor/buffer.h"

namespace dualfp {

class BatchSampler {
 public:
  // `threads` outlives this object. Memory of penalties is touched by the seats that use it.
  // `drawable`: SampleArgs'.
  BatchSampler(int64_t seats, int64_t vocab_size, int64_t drawable, ThreadPool* threads);

  // As ModelRunner::SetSamplingState.
  void SetState(int64_t seat, const SamplingHistory& history);

  // Draws the batch's samples from its logits, F32 [logit rows, vocabulary], and says how many
  // count. Allocates nothing.
  void Run(const ConstTensorView& logits, StepBatch* batch) const;

  // One draw apart from any batch; `logits` is F32 [1, vocabulary], `row` without token_ids.
  int32_t Draw(const ConstTensorView& logits, const SampleRow& row) const;

 private:
  int64_t vocab_size_;
  int64_t drawable_;
  Buffer workspace_;
  Context context_;
  Buffer counts_;  // I32 [seats, vocab_size]
  std::vector<SampleState> states_;
};

}  // namespace dualfp
