// The arrays of a step's batch, allocated once for the largest step.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "dualfp/engine/model_runner.h"
#include "dualfp/engine/precision/cost_model.h"
#include "dualfp/engine/sequence.h"

namespace dualfp {

class StepArena {
 public:
  StepArena(int64_t max_rows, int max_sequences, int64_t max_logit_rows, int64_t max_model_len,
            int block_size);

  // Lays out the scheduled sequences, in order. Spans stay valid until the next call.
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
  int block_size_;
  int64_t stride_;
  StepFeatures features_;
  std::vector<int32_t> token_ids_;
  std::vector<int32_t> positions_;
  std::vector<int32_t> slots_;
  std::vector<int32_t> query_start_;
  std::vector<int32_t> context_length_;
  std::vector<int32_t> block_table_;
  std::vector<int32_t> max_length_;
  std::vector<int32_t> logit_rows_;
  std::vector<int64_t> logit_begin_;
  std::vector<uint8_t> samples_;
  std::vector<BlockCopy> copies_;
  PlanRange plan_;
  StepBatch batch_;
};

}  // namespace dualfp
