#include "dualfp/model/batch.h"

#include <algorithm>
#include <initializer_list>

#include "dualfp/base/check.h"
#include "dualfp/model/rope_frequencies.h"

namespace dualfp {
namespace {

constexpr int64_t kAlignment = 256;  // of each array, for vector loads on any device

template <typename... Parts>
void Require(bool condition, const Parts&... parts) {
  Check(condition, ErrorCode::kInvalidArgument, parts...);
}

}  // namespace

StepBatch::StepBatch(const BatchLimits& limits, const RopeConfig* rope)
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
    used +=
        (words * static_cast<int64_t>(sizeof(int32_t)) + kAlignment - 1) / kAlignment * kAlignment;
  };
  for (const Section section : {kTokenIds, kPositions, kSlots, kRopeRows}) {
    place(section, limits.max_rows);
  }
  place(kQueryStart, limits.max_sequences + 1);
  place(kContextLength, limits.max_sequences);
  place(kLogitRows, limits.max_logit_rows);
  place(kCopies, limits.max_sequences * static_cast<int64_t>(sizeof(BlockCopy) / sizeof(int32_t)));
  place(kFrequencies, (rope_by_length_ ? limits.max_sequences : 1) * half_);
  place(kBlockTable, limits.max_sequences * stride_);
  memory_ = Buffer::AllocateCpu(used);
  if (half_ > 0 && !rope_by_length_) {
    ComputeRopeFrequencies(
        *rope, 0, {reinterpret_cast<float*>(At(kFrequencies)), static_cast<size_t>(half_)});
  }
}

void StepBatch::Clear() { rows_ = sequences_ = logit_rows_ = copies_ = num_plans_ = 0; }

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
  std::copy_n(blocks.begin(), used, At(kBlockTable) + sequences_ * stride_);
  At(kContextLength)[sequences_] = static_cast<int32_t>(length);
  At(kQueryStart)[sequences_ + 1] = static_cast<int32_t>(rows_ + count);
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
  return offsets_[kBlockTable] + sequences_ * stride_ * static_cast<int64_t>(sizeof(int32_t));
}

BatchTensors StepBatch::TensorsAt(const void* base, Device device) const {
  const auto view = [&](Section section, DType dtype, std::initializer_list<int64_t> shape) {
    return ConstTensorView(static_cast<const char*>(base) + offsets_[section], dtype, shape,
                           device);
  };
  return {.token_ids = view(kTokenIds, DType::kI32, {rows_}),
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
