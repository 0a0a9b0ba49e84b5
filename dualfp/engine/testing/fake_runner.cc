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

uint64_t Checksum(const StepBatch& batch) {
  const auto* words = static_cast<const uint32_t*>(batch.data());
  uint64_t hash = 0;
  for (int64_t i = 0; i < batch.used_bytes() / 4; ++i) {
    hash = (hash ^ words[i]) * 0x100000001b3;
  }
  return hash;
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
      block_use_(info_.num_blocks),
      sampler_(info_.max_sequences, info_.vocab_size, 0, &threads_) {
  queue_.reserve(info_.max_steps_in_flight * (1 + info_.max_sequences));
  previous_tokens_.reserve(1 << 12);
}

void FakeRunner::SetSamplingState(int64_t seat, const SamplingHistory& history) {
  queue_.push_back({.batch = nullptr, .checksum = 0, .seat = seat, .history = history});
}

void FakeRunner::Launch(StepBatch* batch) {
  const auto in_flight =
      std::ranges::count_if(queue_, [](const Work& work) { return work.batch != nullptr; });
  CheckInternal(in_flight < info_.max_steps_in_flight, "a step beyond those in flight");
  queue_.push_back({.batch = batch, .checksum = Checksum(*batch), .seat = 0, .history = {}});
}

void FakeRunner::Wait() {
  size_t done = 0;
  StepBatch* batch = nullptr;
  for (; batch == nullptr; ++done) {
    CheckInternal(done < queue_.size(), "no step to wait for");
    const Work& work = queue_[done];
    if (work.batch == nullptr) {
      sampler_.SetState(work.seat, work.history);
    } else {
      batch = work.batch;
      CheckInternal(work.checksum == Checksum(*batch), "a batch has changed in flight");
    }
  }
  queue_.erase(queue_.begin(), queue_.begin() + static_cast<int64_t>(done));
  Run(batch);
}

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

void FakeRunner::Store(StepBatch* batch, int64_t row, int64_t sequence, uint64_t plan_tag) {
  const int32_t position = batch->positions()[row];
  const int32_t block = batch->blocks(sequence)[position / info_.block_size];
  CheckInternal(block >= 0 && block < info_.num_blocks &&
                    batch->slots()[row] == block * info_.block_size + position % info_.block_size,
                "slot and block table of position ", position, " disagree");
  int32_t& token = batch->mutable_token_ids()[row];
  if (token == kDraftedByRunner && row > batch->query_start()[sequence] &&
      info_.max_draft_tokens > 0) {
    token = Draft(*batch, row, sequence);
    ++num_drafted_;
  }
  CheckInternal(token >= 0 && token < info_.vocab_size, "token id out of range");
  cache_[batch->slots()[row]] = {token, position, plan_tag};
}

// What the row before will yield, or something else.
int32_t FakeRunner::Draft(const StepBatch& batch, int64_t row, int64_t sequence) {
  const auto samples = batch.samples().subspan(batch.sample_start()[sequence]);
  const auto verified =
      std::ranges::find(samples, static_cast<int32_t>(row), &SampleRow::draft_row);
  CheckInternal(verified != samples.end(), "nothing verifies the draft of row ", row);
  const int32_t position = batch.positions()[row];
  const std::span<float> logits = std::span(logits_).first(info_.vocab_size);
  ContextOf(batch, sequence, position).Logits(logits);
  const int32_t token =
      sampler_.Draw({logits.data(), DType::kF32, {1, info_.vocab_size}}, *verified);
  const bool right = Mix(static_cast<uint64_t>(position) * 131 + token) % 3 != 0;
  return right ? token : static_cast<int32_t>((token + 1) % info_.vocab_size);
}

// The first `positions` tokens of a sequence as they lie in the cache.
FakeContext FakeRunner::ContextOf(const StepBatch& batch, int64_t sequence,
                                  int32_t positions) const {
  FakeContext context;
  for (int32_t position = 0; position < positions; ++position) {
    const int32_t block = batch.blocks(sequence)[position / info_.block_size];
    const Place& place = cache_[block * info_.block_size + position % info_.block_size];
    CheckInternal(place.position == position, "the cache holds position ", place.position,
                  " where ", position, " is due");
    context.Add(place.token, place.plan_tag);
  }
  return context;
}

void FakeRunner::Run(StepBatch* batch) {
  const bool on_failed = failed_;
  failed_ = true;
  if (before) {
    before(*batch);
  }
  CheckShapes(*batch);
  CheckInternal(!on_failed || std::ranges::all_of(batch->token_sources(),
                                                  [](int32_t source) { return source < 0; }),
                "the step before has failed");
  batch->ResolveTokens(previous_tokens_);
  CopyBlocks(*batch);
  size_t range = 0;
  for (int64_t sequence = 0; sequence < batch->sequences(); ++sequence) {
    for (int64_t row = batch->query_start()[sequence]; row < batch->query_start()[sequence + 1];
         ++row) {
      while (batch->plans()[range].end <= row) {
        ++range;
      }
      Store(batch, row, sequence, TagOf(*batch->plans()[range].plan));
    }
  }
  // After all stores: two sequences that write to one slot spoil each other.
  int64_t sequence = 0;
  for (int64_t wanted = 0; wanted < batch->num_logit_rows(); ++wanted) {
    const int32_t row = batch->logit_rows()[wanted];
    while (batch->query_start()[sequence + 1] <= row) {
      ++sequence;
    }
    ContextOf(*batch, sequence, batch->positions()[row] + 1)
        .Logits(std::span(logits_).subspan(wanted * info_.vocab_size, info_.vocab_size));
  }
  const int64_t wanted = batch->num_logit_rows();
  if (after) {
    after(*batch, std::span(logits_).first(wanted * info_.vocab_size));
  }
  sampler_.Run({logits_.data(), DType::kF32, {wanted, info_.vocab_size}}, batch);
  previous_tokens_.assign(batch->tokens().begin(), batch->tokens().end());
  failed_ = false;
}

}  // namespace dualfp::testing
