#include "dualfp/engine/step_arena.h"

#include <algorithm>

#include "dualfp/base/check.h"

namespace dualfp {

StepArena::StepArena(int64_t max_rows, int max_sequences, int64_t max_logit_rows,
                     int64_t max_model_len, int block_size)
    : block_size_(block_size), stride_((max_model_len + block_size - 1) / block_size) {
  token_ids_.reserve(max_rows);
  positions_.reserve(max_rows);
  slots_.reserve(max_rows);
  query_start_.reserve(max_sequences + 1);
  context_length_.reserve(max_sequences);
  max_length_.reserve(max_sequences);
  block_table_.assign(max_sequences * stride_, 0);
  logit_rows_.reserve(max_logit_rows);
  logit_begin_.reserve(max_sequences + 1);
  samples_.reserve(max_sequences);
  copies_.reserve(max_sequences);
}

void StepArena::Fill(std::span<Sequence* const> scheduled) {
  features_ = {};
  token_ids_.clear();
  positions_.clear();
  slots_.clear();
  query_start_.assign(1, 0);
  context_length_.clear();
  max_length_.clear();
  logit_rows_.clear();
  logit_begin_.assign(1, 0);
  samples_.clear();
  copies_.clear();

  for (size_t index = 0; index < scheduled.size(); ++index) {
    const Sequence& sequence = *scheduled[index];
    const RequestState& request = *sequence.request;
    const int64_t begin = sequence.num_computed;
    const int64_t end = begin + sequence.num_scheduled;
    // Row p scores prompt token p + 1, once.
    const bool scored = request.scores_per_prompt_token > 0;
    const int64_t score_end = scored ? request.prompt_size() - 1 : 0;
    for (int64_t position = begin; position < end; ++position) {
      if (position >= request.num_prompt_scored && position < score_end) {
        logit_rows_.push_back(static_cast<int32_t>(token_ids_.size()));
      }
      token_ids_.push_back(sequence.Token(position));
      positions_.push_back(static_cast<int32_t>(position));
      slots_.push_back(static_cast<int32_t>(sequence.blocks[position / block_size_] * block_size_ +
                                            position % block_size_));
    }
    const bool samples = end == sequence.num_tokens();
    if (samples) {
      logit_rows_.push_back(static_cast<int32_t>(token_ids_.size()) - 1);
    }
    samples_.push_back(samples);
    logit_begin_.push_back(static_cast<int64_t>(logit_rows_.size()));
    query_start_.push_back(static_cast<int32_t>(token_ids_.size()));
    context_length_.push_back(static_cast<int32_t>(end));
    max_length_.push_back(static_cast<int32_t>(request.max_length()));
    const int64_t used = (end + block_size_ - 1) / block_size_;
    std::copy_n(sequence.blocks.begin(), used,
                block_table_.begin() + static_cast<int64_t>(index) * stride_);
    if (sequence.copy_source >= 0) {
      copies_.push_back({sequence.copy_source, sequence.blocks.back()});
    }

    features_.context_tokens += end;
    if (sequence.num_scheduled == 1) {
      ++features_.decode_sequences;
    } else {
      features_.prefill_tokens += sequence.num_scheduled;
    }
  }
}

const StepBatch& StepArena::Batch(const PrecisionPlan* plan) {
  plan_ = {0, static_cast<int64_t>(token_ids_.size()), plan};
  batch_.token_ids = token_ids_;
  batch_.positions = positions_;
  batch_.slots = slots_;
  batch_.query_start = query_start_;
  batch_.context_length = context_length_;
  batch_.block_table = std::span(block_table_).first(context_length_.size() * stride_);
  batch_.block_table_stride = stride_;
  batch_.max_length = max_length_;
  batch_.logit_rows = logit_rows_;
  batch_.copies = copies_;
  batch_.plans = {&plan_, 1};
  return batch_;
}

}  // namespace dualfp
