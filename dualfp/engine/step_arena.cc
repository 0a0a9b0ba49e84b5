#include "dualfp/engine/step_arena.h"

#include <algorithm>
#include <utility>

namespace dualfp {

StepArena::StepArena(StepBatch batch) : batch_(std::move(batch)) {
  logit_begin_.reserve(batch_.limits().max_sequences + 1);
  samples_.reserve(batch_.limits().max_sequences);
}

void StepArena::Fill(std::span<Sequence* const> scheduled) {
  features_ = {};
  batch_.Clear();
  logit_begin_.assign(1, 0);
  samples_.clear();
  for (Sequence* const sequence : scheduled) {
    const RequestState& request = *sequence->request;
    const int64_t begin = sequence->num_computed;
    const int64_t end = begin + sequence->num_scheduled;
    const int64_t first_row = batch_.rows();
    const std::span<int32_t> tokens =
        batch_.AddSequence(begin, sequence->num_scheduled, sequence->blocks, request.max_length());
    for (int64_t i = 0; i < sequence->num_scheduled; ++i) {
      tokens[i] = sequence->Token(begin + i);
    }
    if (request.scores_per_prompt_token > 0) {
      // Row p scores prompt token p + 1, once.
      for (int64_t position = std::max(begin, request.num_prompt_scored);
           position < std::min(end, request.prompt_size() - 1); ++position) {
        batch_.AddLogitRow(first_row + position - begin);
      }
    }
    const bool samples = end == sequence->num_tokens();
    if (samples) {
      batch_.AddLogitRow(batch_.rows() - 1);
    }
    samples_.push_back(samples);
    logit_begin_.push_back(batch_.num_logit_rows());
    if (sequence->copy_source >= 0) {
      batch_.AddCopy({sequence->copy_source, sequence->blocks.back()});
    }

    features_.context_tokens += end;
    if (sequence->num_scheduled == 1) {
      ++features_.decode_sequences;
    } else {
      features_.prefill_tokens += sequence->num_scheduled;
    }
  }
}

const StepBatch& StepArena::Batch(const PrecisionPlan* plan) {
  batch_.SetPlan(plan);
  return batch_;
}

}  // namespace dualfp
