// A model for tests whose logits are a hash of everything that a real model's would depend on: the
// tokens of the sequence as they lie in the KV cache, in order, and the precision that each was
// computed at. A wrong slot, block table, copy, stale block or precision tag changes the tokens.

#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "dualfp/engine/model_runner.h"
#include "dualfp/engine/sampling/batch_sampler.h"

namespace dualfp::testing {

// What the fake's logits are a function of: a sequence's tokens and, for each, a plan's tag.
class FakeContext {
 public:
  void Add(int32_t token, uint64_t plan_tag);

  // [-4, 4), one for each entry of `logits`.
  void Logits(std::span<float> logits) const;

 private:
  uint64_t hash_ = 0x9e3779b97f4a7c15;
};

RunnerInfo SmallInfo();  // 96 tokens, 4 layers, 128 places, blocks of 4, 64 blocks

// Runs a step when it is waited for, not before: as late as a device may. With max_draft_tokens, it
// guesses right two times in three.
class FakeRunner : public ModelRunner {
 public:
  explicit FakeRunner(RunnerInfo info);

  const RunnerInfo& info() const override { return info_; }
  void SetSamplingState(int64_t seat, const SamplingHistory& history) override;
  void Launch(StepBatch* batch) override;

  // Throws kInternal when the batch breaks the contract of StepBatch or was changed since its
  // launch. Allocates nothing.
  void Wait() override;

  // Called first in each step; may sleep, move a clock, look, or throw.
  std::function<void(const StepBatch&)> before;
  // Called before sampling, to spoil logits: [logit rows, vocabulary].
  std::function<void(const StepBatch&, std::span<float>)> after;

  int64_t num_drafted() const { return num_drafted_; }

 private:
  struct Place {
    int32_t token = -1;
    int32_t position = -1;
    uint64_t plan_tag = 0;
  };
  // A step, or without a batch a sampling state.
  struct Work {
    StepBatch* batch = nullptr;
    uint64_t checksum = 0;
    int64_t seat = 0;
    SamplingHistory history;
  };

  void Run(StepBatch* batch);
  void CheckShapes(const StepBatch& batch) const;
  void CopyBlocks(const StepBatch& batch);
  void Store(StepBatch* batch, int64_t row, int64_t sequence, uint64_t plan_tag);
  int32_t Draft(const StepBatch& batch, int64_t row, int64_t sequence);
  FakeContext ContextOf(const StepBatch& batch, int64_t sequence, int32_t positions) const;

  RunnerInfo info_;
  std::vector<Place> cache_;
  std::vector<float> logits_;
  std::vector<uint8_t> block_use_;
  ThreadPool threads_{1};
  BatchSampler sampler_;
  std::vector<Work> queue_;
  std::vector<int32_t> previous_tokens_;
  bool failed_ = false;  // the last step
  int64_t num_drafted_ = 0;
};

}  // namespace dualfp::testing
