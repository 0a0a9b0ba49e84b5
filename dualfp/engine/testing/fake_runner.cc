#include "dualfp/engine/testing/fake_runner.h"

#include <algorithm>

#include "dualfp/base/check.h"

namespace dualfp::testing {
namespace {

uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

void FakeContext::Add(int32_t token, uint64_t plan_tag) {
  hash_ = Mix(hash_ ^ Mix(plan_tag + static_cast<uint64_t>(token)));
}

void FakeContext::Logits(std::span<float> logits) const {
  for (size_t token = 0; token < logits.size(); ++token) {
    logits[token] = static_cast<float>(Mix(hash_ + token) >> 40) * 0x1p-21f - 4.0f;
  }
}

RunnerInfo SmallInfo() {
  RunnerInfo info;
  info.vocab_size = 96;
  info.num_layers = 4;
  info.max_model_len = 128;
  info.block_size = 4;
  info.num_blocks = 64;
  info.max_rows = 64;
  info.max_sequences = 16;
  info.max_logit_rows = 32;
  return info;
}

FakeRunner::FakeRunner(RunnerInfo info)
    : info_(std::move(info)),
      cache_(info_.num_blocks * info_.block_size),
      logits_(info_.max_logit_rows * info_.vocab_size),
      block_use_(info_.num_blocks) {}

void FakeRunner::CheckShapes(const StepBatch& batch) const {
  const int64_t rows = batch.rows();
  const int64_t sequences = batch.sequences();
  CheckInternal(rows >= 1 && rows <= info_.max_rows && sequences >= 1 &&
                    sequences <= info_.max_sequences &&
                    batch.num_logit_rows() <= info_.max_logit_rows,
                "a step of ", rows, " rows, ", sequences, " sequences");
  CheckInternal(batch.query_start()[0] == 0 && batch.query_start().back() == rows,
                "the arrays of a step disagree");
  CheckInternal(std::ranges::is_sorted(batch.logit_rows()), "logit rows are out of order");
  int64_t covered = 0;
  for (const PlanRange& range : batch.plans()) {
    CheckInternal(range.begin == covered && range.end > range.begin &&
                      static_cast<int>(range.plan->layers.size()) == info_.num_layers,
                  "plan ranges leave a gap");
    covered = range.end;
  }
  CheckInternal(covered == rows, "plan ranges do not cover the step");
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    CheckInternal(batch.query_start()[sequence + 1] > batch.query_start()[sequence],
                  "an empty query");
  }
}

void FakeRunner::CopyBlocks(const StepBatch& batch) {
  std::ranges::fill(block_use_, uint8_t{0});
  constexpr uint8_t kSource = 1;
  constexpr uint8_t kTarget = 2;
  for (const BlockCopy& copy : batch.copies()) {
    CheckInternal(block_use_[copy.target] == 0, "block ", copy.target,
                  " is copied to twice or from");
    block_use_[copy.target] = kTarget;
    CheckInternal(block_use_[copy.source] != kTarget, "block ", copy.source,
                  " is copied from and to");
    block_use_[copy.source] = kSource;
    std::copy_n(cache_.begin() + copy.source * info_.block_size, info_.block_size,
                cache_.begin() + copy.target * info_.block_size);
  }
}

void FakeRunner::Store(const StepBatch& batch, int64_t row, int64_t sequence, uint64_t plan_tag) {
  const int32_t position = batch.positions()[row];
  const int32_t block = batch.blocks(sequence)[position / info_.block_size];
  CheckInternal(block >= 0 && block < info_.num_blocks &&
                    batch.slots()[row] == block * info_.block_size + position % info_.block_size,
                "slot and block table of position ", position, " disagree");
  CheckInternal(batch.token_ids()[row] >= 0 && batch.token_ids()[row] < info_.vocab_size,
                "token id out of range");
  cache_[batch.slots()[row]] = {batch.token_ids()[row], position, plan_tag};
}

ConstTensorView FakeRunner::Execute(const StepBatch& batch) {
  if (before) {
    before(batch);
  }
  CheckShapes(batch);
  CopyBlocks(batch);
  const int64_t sequences = batch.sequences();
  size_t range = 0;
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    for (int64_t row = batch.query_start()[sequence]; row < batch.query_start()[sequence + 1];
         ++row) {
      while (batch.plans()[range].end <= row) {
        ++range;
      }
      Store(batch, row, sequence, TagOf(*batch.plans()[range].plan));
    }
  }
  // After all stores: two sequences that write to one slot spoil each other.
  size_t wanted = 0;
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    const int32_t begin = batch.query_start()[sequence];
    const int32_t count = batch.query_start()[sequence + 1] - begin;
    const int32_t context = batch.context_length()[sequence];
    FakeContext hash;
    for (int32_t position = 0; position < context; ++position) {
      const int32_t block = batch.blocks(sequence)[position / info_.block_size];
      const Place& place = cache_[block * info_.block_size + position % info_.block_size];
      CheckInternal(place.position == position, "the cache holds position ", place.position,
                    " where ", position, " is due");
      hash.Add(place.token, place.plan_tag);
      const int32_t row = position - (context - count) + begin;
      CheckInternal(row < begin || batch.positions()[row] == position,
                    "positions are out of order");
      if (wanted < batch.logit_rows().size() && row >= begin && batch.logit_rows()[wanted] == row) {
        hash.Logits(std::span(logits_).subspan(wanted * info_.vocab_size, info_.vocab_size));
        ++wanted;
      }
    }
  }
  CheckInternal(wanted == batch.logit_rows().size(), "a logit row belongs to no sequence");
  if (after) {
    after(batch, std::span(logits_).first(wanted * info_.vocab_size));
  }
  return {logits_.data(), DType::kF32, {static_cast<int64_t>(wanted), info_.vocab_size}};
}

}  // namespace dualfp::testing
