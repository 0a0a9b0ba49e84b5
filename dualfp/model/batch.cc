#include "dualfp/model/batch.h"

#include <algorithm>
#include <initializer_list>

#include "dualfp/base/check.h"
#include "dualfp/kernels/device.h"
#include "dualfp/model/rope_frequencies.h"

namespace dualfp {
namespace {

constexpr int64_t kWord = sizeof(int32_t);
constexpr int64_t kAlignment = 256;  // of each array, for vector loads on any device

template <typename T>
constexpr int64_t kWordsOf = sizeof(T) / kWord;

template <typename... Parts>
void Require(bool condition, const Parts&... parts) {
  Check(condition, ErrorCode::kInvalidArgument, parts...);
}

}  // namespace

StepBatch::StepBatch(const BatchLimits& limits, const RopeConfig* rope, Device device)
    : limits_(limits), rope_(rope) {
  Require(limits.max_rows >= 1 && limits.max_sequences >= 1 && limits.max_logit_rows >= 0 &&
              limits.max_context >= 1 && limits.block_size >= 1,
          "the limits of a step must be positive");
  rope_by_length_ = rope != nullptr && RopeDependsOnLength(*rope);
  half_ = rope == nullptr ? 0 : rope->rotary_dim / 2;
  stride_ = (limits.max_context + limits.block_size - 1) / limits.block_size;
  int64_t used = 0;
  const auto place = [&](Section section, int64_t words) {
    offsets_[section] = used;
    used += (words * kWord + kAlignment - 1) / kAlignment * kAlignment;
  };
  for (const Section section : {kTokenIds, kTokenSources, kPositions, kSlots, kRopeRows}) {
    place(section, limits.max_rows);
  }
  place(kQueryStart, limits.max_sequences + 1);
  place(kContextLength, limits.max_sequences);
  place(kLogitRows, limits.max_logit_rows);
  place(kCopies, limits.max_sequences * kWordsOf<BlockCopy>);
  place(kSampleStart, limits.max_sequences + 1);
  place(kSamples, limits.max_samples * kWordsOf<SampleRow>);
  place(kFrequencies, (rope_by_length_ ? limits.max_sequences : 1) * half_);
  place(kBlockTable, limits.max_sequences * stride_);
  place(kTokens, limits.max_samples);
  place(kYielded, limits.max_sequences);
  place(kScores, limits.max_scores * kWordsOf<ScoredToken>);
  memory_ = AllocatePinned(device, used);
  if (half_ > 0 && !rope_by_length_) {
    ComputeRopeFrequencies(
        *rope, 0, {reinterpret_cast<float*>(At(kFrequencies)), static_cast<size_t>(half_)});
  }
}

void StepBatch::Clear() {
  rows_ = sequences_ = logit_rows_ = copies_ = samples_ = scores_ = 0;
  num_plans_ = 0;
}

std::span<int32_t> StepBatch::AddSequence(int64_t position, int64_t count,
                                          std::span<const int32_t> blocks, int64_t rope_length) {
  const int64_t length = position + count;
  const int64_t used = (length + limits_.block_size - 1) / limits_.block_size;
  Require(sequences_ < limits_.max_sequences, "a step of ", sequences_ + 1,
          " sequences, expected at most ", limits_.max_sequences);
  Require(count >= 1 && position >= 0, "a sequence of ", count, " tokens at position ", position);
  Require(rows_ + count <= limits_.max_rows, "a step of ", rows_ + count,
          " tokens, expected at most ", limits_.max_rows);
  Require(length <= limits_.max_context, "a sequence of ", length,
          " tokens exceeds the context length ", limits_.max_context);
  Require(static_cast<int64_t>(blocks.size()) >= used, "a sequence of ", length, " tokens with ",
          blocks.size(), " cache blocks");

  int32_t* positions = At(kPositions) + rows_;
  int32_t* slots = At(kSlots) + rows_;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t p = position + i;
    positions[i] = static_cast<int32_t>(p);
    slots[i] = static_cast<int32_t>(blocks[p / limits_.block_size] * limits_.block_size +
                                    p % limits_.block_size);
  }
  std::fill_n(At(kRopeRows) + rows_, count, rope_by_length_ ? static_cast<int32_t>(sequences_) : 0);
  if (rope_by_length_) {
    float* frequencies = reinterpret_cast<float*>(At(kFrequencies)) + sequences_ * half_;
    ComputeRopeFrequencies(*rope_, std::max(rope_length, length),
                           {frequencies, static_cast<size_t>(half_)});
  }
  std::fill_n(At(kTokenSources) + rows_, count, -1);
  std::copy_n(blocks.begin(), used, At(kBlockTable) + sequences_ * stride_);
  At(kContextLength)[sequences_] = static_cast<int32_t>(length);
  At(kQueryStart)[sequences_ + 1] = static_cast<int32_t>(rows_ + count);
  At(kSampleStart)[sequences_ + 1] = static_cast<int32_t>(samples_);
  const std::span<int32_t> tokens(At(kTokenIds) + rows_, static_cast<size_t>(count));
  rows_ += count;
  ++sequences_;
  return tokens;
}

void StepBatch::AddSequence(std::span<const int32_t> tokens, int64_t position,
                            std::span<const int32_t> blocks, int64_t rope_length) {
  std::ranges::copy(
      tokens,
      AddSequence(position, static_cast<int64_t>(tokens.size()), blocks, rope_length).begin());
}

void StepBatch::SetTokenSource(int64_t row, int64_t sample) {
  Require(0 <= row && row < rows_ && 0 <= sample && sample < limits_.max_samples,
          "the token of row ", row, " from sample ", sample, " of the step before");
  At(kTokenSources)[row] = static_cast<int32_t>(sample);
}

void StepBatch::ResolveTokens(std::span<const int32_t> previous) {
  for (int64_t row = 0; row < rows_; ++row) {
    if (const int32_t source = At(kTokenSources)[row]; source >= 0) {
      Require(source < static_cast<int64_t>(previous.size()), "the token of row ", row,
              " is sample ", source, " of a step that had ", previous.size());
      At(kTokenIds)[row] = std::max(previous[source], 0);
    }
  }
}

void StepBatch::AddSample(SampleRow sample) {
  Require(samples_ < limits_.max_samples && scores_ + sample.num_scores <= limits_.max_scores,
          "a step of ", samples_ + 1, " samples and ", scores_ + sample.num_scores,
          " scores, expected at most ", limits_.max_samples, " and ", limits_.max_scores);
  CheckInternal(sequences_ > 0, "a sample without a sequence");
  sample.score_begin = static_cast<int32_t>(scores_);
  scores_ += sample.num_scores;
  reinterpret_cast<SampleRow*>(At(kSamples))[samples_++] = sample;
  At(kSampleStart)[sequences_] = static_cast<int32_t>(samples_);
}

std::span<const SampleRow> StepBatch::samples() const {
  return {reinterpret_cast<const SampleRow*>(At(kSamples)), static_cast<size_t>(samples_)};
}

std::span<const ScoredToken> StepBatch::scores() const {
  return {reinterpret_cast<const ScoredToken*>(At(kScores)), static_cast<size_t>(scores_)};
}

std::span<ScoredToken> StepBatch::mutable_scores() {
  return {reinterpret_cast<ScoredToken*>(At(kScores)), static_cast<size_t>(scores_)};
}

void StepBatch::AddLogitRow(int64_t row) {
  Require(logit_rows_ < limits_.max_logit_rows, "logits of ", logit_rows_ + 1,
          " rows, expected at most ", limits_.max_logit_rows);
  Require(0 <= row && row < rows_, "logits of row ", row, " in a step of ", rows_);
  At(kLogitRows)[logit_rows_++] = static_cast<int32_t>(row);
}

void StepBatch::AddAllLogitRows() {
  for (int64_t row = 0; row < rows_; ++row) {
    AddLogitRow(row);
  }
}

void StepBatch::AddPlan(const PlanRange& range) {
  Require(num_plans_ < kMaxPlanRanges, "a step of more than ", kMaxPlanRanges,
          " ranges of precision");
  plans_[num_plans_++] = range;
}

void StepBatch::SetPlan(const PrecisionPlan* plan) {
  num_plans_ = 0;
  AddPlan({0, rows_, plan});
}

void StepBatch::AddCopy(BlockCopy copy) {
  Require(copies_ < limits_.max_sequences, "a step of ", copies_ + 1,
          " block copies, expected at most ", limits_.max_sequences);
  reinterpret_cast<BlockCopy*>(At(kCopies))[copies_++] = copy;
}

std::span<const BlockCopy> StepBatch::copies() const {
  return {reinterpret_cast<const BlockCopy*>(At(kCopies)), static_cast<size_t>(copies_)};
}

int64_t StepBatch::used_bytes() const {
  return offsets_[kBlockTable] + sequences_ * stride_ * kWord;
}

int64_t StepBatch::result_bytes() const {
  return offsets_[kScores] + scores_ * static_cast<int64_t>(sizeof(ScoredToken)) - result_offset();
}

BatchTensors StepBatch::TensorsAt(const void* base, Device device) const {
  const auto view = [&](Section section, DType dtype, std::initializer_list<int64_t> shape) {
    return ConstTensorView(static_cast<const char*>(base) + offsets_[section], dtype, shape,
                           device);
  };
  return {.token_ids = view(kTokenIds, DType::kI32, {rows_}),
          .token_sources = view(kTokenSources, DType::kI32, {rows_}),
          .positions = view(kPositions, DType::kI32, {rows_}),
          .slots = view(kSlots, DType::kI32, {rows_}),
          .rope_rows = view(kRopeRows, DType::kI32, {rows_}),
          .query_start = view(kQueryStart, DType::kI32, {sequences_ + 1}),
          .context_length = view(kContextLength, DType::kI32, {sequences_}),
          .block_table = view(kBlockTable, DType::kI32, {sequences_, stride_}),
          .logit_rows = view(kLogitRows, DType::kI32, {logit_rows_}),
          .inv_freq = view(kFrequencies, DType::kF32,
                           {rope_by_length_ ? limits_.max_sequences : 1, half_})};
}

}  // namespace dualfp
