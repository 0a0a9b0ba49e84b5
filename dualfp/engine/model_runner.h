// The seam between the engine and whatever computes a forward pass.
//
// The engine decides (which tokens, which blocks, which precision); a runner executes. A runner
// owns the weights and the memory of the KV blocks, and all tensors of a step, allocated before the
// first: Execute() neither allocates nor depends on addresses that change from step to step, so
// that a decode step can be captured as a CUDA graph.

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "dualfp/engine/precision/precision_plan.h"
#include "dualfp/model/batch.h"
#include "dualfp/tensor/tensor_view.h"

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

  // Why the model cannot compute at all at a precision; empty where it can. A model that can run
  // some layers in FP8 supports FP8: the rest of the layers stay what they are.
  std::string fp16_unsupported;
  std::string fp8_unsupported;
};

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;

  virtual const RunnerInfo& info() const = 0;

  // Keys and values may depend on the length that a sequence may reach, as with dynamic RoPE
  // scaling: sequences share cached prefixes only where this agrees. Thread-safe.
  virtual uint64_t CacheClass(int64_t /*max_length*/) const { return 0; }

  // An empty batch, at the limits of a step; the runner outlives it. Unless overridden, one for a
  // model without rotary frequencies.
  virtual StepBatch NewBatch() const;

  // F32 [logit_rows, vocab_size] in host memory, valid until the next call. A row depends on its
  // own sequence and its plan alone, bit for bit, never on the rest of the batch.
  // Throws dualfp::Error; the KV of the step's own slots is undefined then, all else intact.
  virtual ConstTensorView Execute(const StepBatch& batch) = 0;
};

}  // namespace dualfp
