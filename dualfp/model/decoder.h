// One decoder for the Llama family: Llama, Mistral, Phi-3/4, Qwen2 and Qwen3 differ in biases,
// qk-norm, windows and RoPE only, all of which the configuration states.
//
// A step takes any mix of sequences, each with one or more new tokens (a prefill, a chunk of one, a
// decode, or several drafted tokens), and any mix of precisions among its rows. Everything it needs
// lies in one arena that is laid out before the first step, so a step allocates nothing, and it
// only calls ops with views of that arena.

#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "dualfp/kernels/context.h"
#include "dualfp/kernels/gemm.h"
#include "dualfp/model/kv_cache.h"
#include "dualfp/model/model.h"
#include "dualfp/model/precision_plan.h"
#include "dualfp/tensor/buffer.h"

namespace dualfp {

struct StepSequence {
  std::span<const int32_t> tokens;  // at least one
  int64_t position = 0;             // of the first; everything before it is in the cache
  // Cache blocks in order, enough for position + tokens.size() tokens.
  std::span<const int32_t> blocks;
  // Dynamic and longrope scaling only: the length that this sequence may reach. The same in each of
  // its steps (rope_frequencies.h).
  int64_t rope_length = 0;
};

// Rows [begin, end) of a step compute as `plan` says. A row is a token; rows are numbered through
// all sequences.
struct PlanRange {
  int64_t begin = 0;
  int64_t end = 0;
  const PrecisionPlan* plan = nullptr;
};

struct Step {
  std::span<const StepSequence> sequences;
  std::span<const PlanRange> plans;     // ascending, covering all rows
  std::span<const int32_t> logit_rows;  // rows whose logits are wanted, any order
};

struct DecoderLimits {
  int64_t max_tokens = 512;    // rows of a step
  int64_t max_sequences = 1;   // of a step
  int64_t max_logit_rows = 1;  // of a step
  int64_t max_context = 0;     // tokens of a sequence; 0 = MaxContextLength()
};

struct DecoderOptions {
  DecoderLimits limits;
  // How a layer at FP8 treats its input: W8A8, or kNone for FP8 weights alone.
  ActivationQuant activation_quant = ActivationQuant::kDynamicPerToken;
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
  int64_t arena_bytes() const { return static_cast<int64_t>(arena_.size()); }

  // Runs the model over a step's tokens, stores their keys and values, and writes the wanted rows'
  // logits, F32 [logit_rows.size(), vocabulary], to `logits`. context.workspace is not used.
  // A row's logits do not depend on the other rows nor on how its sequence was cut into steps.
  // Throws kInvalidArgument for a step beyond the limits or the cache, or with a token outside the
  // vocabulary; the cache is then unchanged.
  void Forward(const Context& context, const Step& step, KvCache& cache, const TensorView& logits);

  PlanCost CostOf(const PrecisionPlan& plan) const;

 private:
  struct Arena;
  // A linear layer and which precisions its weight offers, indexed by Precision.
  struct Stage {
    const Linear* linear;
    bool offers[3];
  };

  const Stage& StageOf(int64_t layer, LinearKind kind) const {
    return stages_[layer * kLinearsPerLayer + static_cast<int64_t>(kind)];
  }
  const Stage& HeadStage() const { return stages_.back(); }
  static Precision Effective(const Stage& stage, Precision wanted) {
    return stage.offers[static_cast<int>(wanted)] ? wanted : Precision::kFp16;
  }

  int64_t CheckStep(const Step& step, const KvCache& cache, const TensorView& logits) const;
  Arena LayOut(char* base, int64_t rows, int64_t sequences, int64_t blocks,
               int64_t logit_rows) const;
  void PrepareInputs(const Step& step, const Arena& arena) const;
  void RunLayer(const Context& context, const Step& step, int64_t layer, const KvCache& cache,
                const Arena& arena);
  void RunLinear(const Context& context, const Stage& stage, std::span<const RowRange> ranges,
                 GemmArgs args) const;
  // The step's row ranges for one linear layer; valid until the next call.
  std::span<const RowRange> RowRanges(const Step& step, int64_t layer, LinearKind kind);
  std::span<const RowRange> LogitRanges(const Step& step);
  void AddRange(RowRange range);
  int64_t WorkspaceBytes(int64_t rows) const;

  const Model& model_;
  DecoderOptions options_;
  std::vector<Stage> stages_;             // kLinearsPerLayer for each layer, then lm_head
  std::vector<float> fixed_frequencies_;  // where they do not depend on a sequence's length
  std::vector<RowRange> ranges_;
  int64_t workspace_bytes_ = 0;
  Buffer arena_;
};

}  // namespace dualfp
