// The seam between the engine and whatever computes a forward pass.
//
// The engine decides (which tokens, which blocks, which precision); a runner executes. A runner
// owns the weights, the memory of the KV blocks and all tensors of a step, allocated before the
// first. Launch() starts a step and Wait() ends the oldest: what comes back are tokens and
// log-probabilities, in the batch itself; logits stay where they were computed.
//
// Steps run in the order of their launches, each on what the ones before it wrote, so the engine
// may give a block away while a step that uses it is in flight.

#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "dualfp/engine/precision/precision_plan.h"
#include "dualfp/kernels/sample.h"
#include "dualfp/model/batch.h"

namespace dualfp {

// Fixed for the life of a runner.
struct RunnerInfo {
  int64_t vocab_size = 0;
  int num_layers = 0;
  int64_t max_model_len = 0;  // tokens of a sequence, prompt and completion
  int block_size = 16;        // tokens of a KV block
  int64_t num_blocks = 0;

  // Bounds on a step that the engine keeps.
  int64_t max_rows = 0;  // token rows
  int max_sequences = 0;
  int64_t max_logit_rows = 0;

  // Steps that may be launched and not waited for. With 2, the next step is planned while one runs,
  // and its rows may name tokens that the running one is about to yield.
  int max_steps_in_flight = 1;

  // A row depends on its own sequence and its plan alone, bit for bit, never on the rest of the
  // batch: what the engine's promise of reproducible tokens rests on.
  bool rows_independent = true;

  // Rows of a decoding sequence beyond its own that the runner can fill with tokens that it drafts
  // itself and verifies in the same step; 0: none.
  int max_draft_tokens = 0;

  // Why the model cannot compute at all at a precision; empty where it can. A model that can run
  // some layers in FP8 supports FP8: the rest of the layers stay what they are.
  std::string fp16_unsupported;
  std::string fp8_unsupported;
};

// The token id of a row that the runner drafts.
inline constexpr int32_t kDraftedByRunner = -1;

// What a sequence's draws depend on besides logits and numbers. `banned` and `bias` outlive the
// steps that use them.
struct SamplingHistory {
  std::span<const int32_t> prompt;  // with penalties: what has been said,
  std::span<const int32_t> output;  // including the input of the step to come
  std::span<const int32_t> banned;  // tokens that SampleRow::ban excludes
  std::span<const TokenBias> bias;
  bool penalties = false;
};

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;

  virtual const RunnerInfo& info() const = 0;

  // Keys and values may depend on the length that a sequence may reach, as with dynamic RoPE
  // scaling: sequences share cached prefixes only where this agrees. Thread-safe.
  virtual uint64_t CacheClass(int64_t /*max_length*/) const { return 0; }

  // An empty batch in memory that the runner's device reads well; the runner outlives it. Unless
  // overridden, one for a model without rotary frequencies, in plain memory.
  virtual StepBatch NewBatch(const BatchLimits& limits) const { return {limits, nullptr}; }

  // From the next launch on, SampleRow::state `seat`, below max_sequences, means this. Reads
  // `history.prompt` and `.output` before it returns; what fails is thrown by that launch.
  virtual void SetSamplingState(int64_t seat, const SamplingHistory& history) = 0;

  // Starts a step; may return before it has run. The batch belongs to the runner until its Wait().
  // Throws dualfp::Error where the step cannot be started; nothing is in flight for it then.
  virtual void Launch(StepBatch* batch) = 0;

  // Ends the oldest step: its batch holds what it yields. Throws dualfp::Error where it failed; the
  // KV of the step's own slots is undefined then, all else intact. A step that was launched on the
  // tokens of one that failed fails as well.
  virtual void Wait() = 0;
};

}  // namespace dualfp
