// One decoder for the Llama family: Llama, Mistral, Phi-3/4, Qwen2 and Qwen3 differ in biases,
// qk-norm, windows and RoPE only, all of which the configuration states.
//
// A step takes any mix of sequences, each with one or more new tokens (a prefill, a chunk of one, a
// decode, or several drafted tokens), and any mix of precisions among its rows. It reads the batch
// (batch.h) in place and works in tensors that are planned once (activations.h): a step allocates
// nothing, and its ops get the same addresses in every step.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "dualfp/kernels/attention.h"
#include "dualfp/kernels/context.h"
#include "dualfp/kernels/gemm.h"
#include "dualfp/model/activations.h"
#include "dualfp/model/batch.h"
#include "dualfp/model/kv_cache.h"
#include "dualfp/model/model.h"
#include "dualfp/model/precision_plan.h"

namespace dualfp {

struct DecoderLimits {
  int64_t max_tokens = 512;    // rows of a step
  int64_t max_sequences = 1;   // of a step
  int64_t max_logit_rows = 1;  // of a step
  int64_t max_context = 0;     // tokens of a sequence; 0 = MaxContextLength()
};

struct DecoderOptions {
  DecoderLimits limits;
  // How layers at FP8 treat their inputs: W8A8, or kNone for FP8 weights alone. Nothing: as each
  // layer says (Linear::activation_quant).
  std::optional<ActivationQuant> activation_quant;
  // Called with each linear layer's input before it runs: for calibration and statistics.
  std::function<void(const Linear& linear, const ConstTensorView& x)> observe_input;
};

// What one pass over all weights costs at a plan.
struct PlanCost {
  int64_t weight_bytes = 0;  // read per step, lm_head included, the embedding's one row not
  int64_t linears_at_fp16 = 0;
  int64_t linears_at_fp8 = 0;
  int64_t fallbacks = 0;  // of those at FP16: asked for FP8 without offering it
};

class Decoder {
 public:
  // The model must outlive the decoder.
  Decoder(const Model& model, const DecoderOptions& options);

  const Model& model() const { return model_; }
  const DecoderOptions& options() const { return options_; }

  // The addresses of a step's tensors.
  const Activations& activations() const { return activations_; }

  // An empty batch at this decoder's limits, which outlives it.
  StepBatch NewBatch() const;

  // Runs the model over a step's tokens, stores their keys and values, and writes the wanted rows'
  // logits, F32 [logit_rows, vocabulary], to `logits`. context.workspace is not used.
  // A row's logits do not depend on the other rows nor on how its sequence was cut into steps.
  // Throws kInvalidArgument for a step beyond the limits or the cache, or with a token outside the
  // vocabulary; the cache is then unchanged.
  void Forward(const Context& context, const StepBatch& batch, KvCache& cache,
               const TensorView& logits);

  PlanCost CostOf(const PrecisionPlan& plan) const;

  // Whether a row's logits are the same, bit for bit, whatever the other rows: a matter of the
  // kernels that this machine multiplies with.
  bool rows_independent() const { return rows_independent_; }

 private:
  // A linear layer and which precisions its weight offers and some kernel computes, indexed by
  // Precision.
  struct Stage {
    const Linear* linear;
    bool offers[3];
  };

  std::vector<Stage> MakeStages() const;
  // Arguments of a linear layer for its description; pointers only have to be there.
  GemmArgs ArgsOf(const Linear& linear, LinearKind kind, bool head, int64_t rows) const;
  ActivationQuant ActivationOf(const Linear& linear) const {
    return options_.activation_quant.value_or(linear.activation_quant);
  }
  AttentionShape attention_shape() const;
  const Stage& StageOf(int64_t layer, LinearKind kind) const {
    return stages_[layer * kLinearsPerLayer + static_cast<int64_t>(kind)];
  }
  const Stage& HeadStage() const { return stages_.back(); }
  static Precision Effective(const Stage& stage, Precision wanted) {
    return stage.offers[static_cast<int>(wanted)] ? wanted : Precision::kExact;
  }

  void CheckStep(const StepBatch& batch, const KvCache& cache, const TensorView& logits) const;
  void CheckPlans(const StepBatch& batch) const;
  void RunLayer(const Context& context, const StepBatch& batch, int64_t layer, const KvCache& cache,
                const ActivationTensors& tensors);
  void RunLinear(const Context& context, const Stage& stage, std::span<const RowRange> ranges,
                 GemmArgs args) const;
  // The step's row ranges for one linear layer; valid until the next call.
  std::span<const RowRange> RowRanges(const StepBatch& batch, int64_t layer, LinearKind kind);
  std::span<const RowRange> LogitRanges(const StepBatch& batch);
  void AddRange(RowRange range);
  // Calls visit(description) for every product that a step of `rows` rows may need.
  template <typename Visit>
  void ForEachProduct(int64_t rows, const Visit& visit) const;
  int64_t WorkspaceBytes(int64_t rows) const;

  const Model& model_;
  DecoderOptions options_;
  std::vector<Stage> stages_;  // kLinearsPerLayer for each layer, then lm_head
  std::vector<RowRange> ranges_;
  AttentionPlan attention_plan_;
  Activations activations_;
  bool rows_independent_ = true;
};

}  // namespace dualfp
