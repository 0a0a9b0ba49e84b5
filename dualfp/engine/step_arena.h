// A step's batch as the scheduler wants it, and which of its logits are whose.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "dualfp/engine/model_runner.h"
#include "dualfp/engine/precision/step_cost_model.h"
#include "dualfp/engine/sequence.h"

namespace dualfp {

class StepArena {
 public:
  explicit StepArena(StepBatch batch);

  // Lays out the scheduled sequences, in order.
  void Fill(std::span<Sequence* const> scheduled);

  // The batch, at one plan for all rows.
  const StepBatch& Batch(const PrecisionPlan* plan);

  const StepFeatures& features() const { return features_; }

  // Which logits belong to sequence `index`: rows [logit_begin(index), logit_begin(index + 1)) of
  // the runner's result. The last of them is for sampling if samples(index); the ones before score
  // prompt tokens, from RequestState::num_prompt_scored on.
  int64_t logit_begin(size_t index) const { return logit_begin_[index]; }
  bool samples(size_t index) const { return samples_[index] != 0; }

 private:
  StepBatch batch_;
  StepFeatures features_;
  std::vector<int64_t> logit_begin_;
  std::vector<uint8_t> samples_;
};

}  // namespace dualfp
