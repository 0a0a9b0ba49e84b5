#include "dualfp/engine/sampling/batch_sampler.h"

#include <algorithm>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

// Draws of one sequence up to the first that differs from its draft.
int32_t CountYielded(std::span<const SampleRow> samples, std::span<const int32_t> tokens,
                     std::span<const int32_t> token_ids) {
  int32_t count = 0;
  for (size_t i = 0; i < samples.size(); ++i) {
    if (samples[i].token >= 0) {
      continue;  // given, not drawn
    }
    ++count;
    if (samples[i].draft_row >= 0 && tokens[i] != token_ids[samples[i].draft_row]) {
      break;
    }
  }
  return count;
}

}  // namespace

BatchSampler::BatchSampler(int64_t seats, int64_t vocab_size, int64_t drawable, ThreadPool* threads)
    : vocab_size_(vocab_size),
      drawable_(drawable),
      counts_(Buffer::AllocateCpu(seats * vocab_size * sizeof(int32_t))),
      states_(seats) {
  context_.threads = threads;
  const int64_t bytes = SampleWorkspaceBytes(context_, vocab_size);
  workspace_ = Buffer::AllocateCpu(bytes);
  context_.workspace = workspace_.View(DType::kU8, {bytes});
}

void BatchSampler::SetState(int64_t seat, const SamplingHistory& history) {
  CheckInternal(0 <= seat && seat < static_cast<int64_t>(states_.size()), "sampling state ", seat,
                " of ", states_.size());
  SampleState& state = states_[seat];
  state.banned = history.banned.data();
  state.num_banned = static_cast<int64_t>(history.banned.size());
  state.bias = history.bias.data();
  state.num_bias = static_cast<int64_t>(history.bias.size());
  state.counts = nullptr;
  if (history.penalties) {
    state.counts = static_cast<int32_t*>(counts_.data()) + seat * vocab_size_;
    std::fill_n(state.counts, vocab_size_, 0);
    for (const int32_t token : history.prompt) {
      state.counts[token] = kInPrompt;
    }
    for (const int32_t token : history.output) {
      ++state.counts[token];
    }
  }
}

void BatchSampler::Run(const ConstTensorView& logits, StepBatch* batch) const {
  const std::span<const SampleRow> samples = batch->samples();
  Sample(context_, {.logits = logits,
                    .drawable = drawable_,
                    .token_ids = batch->tensors().token_ids,
                    .rows = samples,
                    .states = states_,
                    .tokens = batch->mutable_tokens(),
                    .scores = batch->mutable_scores()});
  for (int64_t sequence = 0; sequence < batch->sequences(); ++sequence) {
    const int32_t begin = batch->sample_start()[sequence];
    const int32_t count = batch->sample_start()[sequence + 1] - begin;
    batch->mutable_yielded()[sequence] = CountYielded(
        samples.subspan(begin, count), batch->tokens().subspan(begin, count), batch->token_ids());
  }
}

int32_t BatchSampler::Draw(const ConstTensorView& logits, const SampleRow& row) const {
  SampleRow alone = row;
  alone.logit_row = 0;
  alone.append_row = -1;
  alone.num_scores = alone.score_begin = 0;
  int32_t token = kNoToken;
  const int32_t none = 0;
  Sample(context_, {.logits = logits,
                    .drawable = drawable_,
                    .token_ids = {&none, DType::kI32, {1}},
                    .rows = {&alone, 1},
                    .states = states_,
                    .tokens = {&token, 1},
                    .scores = {}});
  return token;
}

}  // namespace dualfp
