// A model for tests whose logits are a hash of everything that a real model's would depend on: the
// tokens of the sequence as they lie in the KV cache, in order, and the precision that each was
// computed at. A wrong slot, block table, copy, stale block or precision tag changes the tokens.

#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "dualfp/engine/model_runner.h"

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

class FakeRunner : public ModelRunner {
 public:
  explicit FakeRunner(RunnerInfo info);

  const RunnerInfo& info() const override { return info_; }

  // Throws kInternal when the batch breaks the contract of StepBatch. Allocates nothing.
  ConstTensorView Execute(const StepBatch& batch) override;

  // Called first in each Execute; may sleep, move a clock, look, or throw.
  std::function<void(const StepBatch&)> before;
  // Called last, to spoil logits: [logit rows, vocabulary].
  std::function<void(const StepBatch&, std::span<float>)> after;

 private:
  struct Place {
    int32_t token = -1;
    int32_t position = -1;
    uint64_t plan_tag = 0;
  };

  void CheckShapes(const StepBatch& batch) const;
  void CopyBlocks(const StepBatch& batch);
  void Store(const StepBatch& batch, int64_t row, int64_t sequence, uint64_t plan_tag);

  RunnerInfo info_;
  std::vector<Place> cache_;
  std::vector<float> logits_;
  std::vector<uint8_t> block_use_;
};

}  // namespace dualfp::testing
