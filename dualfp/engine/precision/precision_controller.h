// Which precision each step runs at: asked once a step, before the forward pass.
//
// The engine, not the controller, honours pins: rows of a pinned request run all layers in its
// precision, beside the others of the step, which run as the controller says.

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "dualfp/engine/precision/precision_plan.h"
#include "dualfp/engine/precision/step_cost_model.h"
#include "dualfp/engine/request.h"

namespace dualfp {

// A request that has a deadline for its next token.
struct DeadlineSlack {
  RequestId id = 0;
  double slack = 0.0;  // seconds from now to the deadline; negative when it has passed
  int steps = 1;       // steps, this one included, until the token is there (more while prefilling)
};

struct StepSummary {
  TimePoint now;
  StepFeatures features;     // of the rows that the controller decides for
  StepWork pinned;           // and of the pinned ones
  int64_t batch_tokens = 0;  // rows of the step, all of them
  int num_running = 0;       // sequences
  int num_waiting = 0;
  std::span<const DeadlineSlack> deadlines;
  const StepCostModel* cost = nullptr;
};

class PrecisionController {
 public:
  virtual ~PrecisionController() = default;

  // Sets `plan`, which has the model's number of layers and the previous step's content.
  // Must not allocate.
  virtual void Choose(const StepSummary& step, PrecisionPlan* plan) = 0;

  // True where prompts get a plan of their own: then ChoosePrefill(), called after Choose(), sets
  // the plan of rows that compute prompt tokens.
  virtual bool splits_prefill() const { return false; }
  virtual void ChoosePrefill(const StepSummary& /*step*/, PrecisionPlan* /*plan*/) {}

  // False when every step gets the same plan, so that an unpinned request is reproducible.
  virtual bool adaptive() const { return true; }

  virtual std::string_view name() const = 0;
};

// One plan for every step: "exact", "fp8", or a precision per layer.
std::unique_ptr<PrecisionController> MakeFixedController(PrecisionPlan plan);

// One plan for rows that compute prompts and one for those that generate ("fp8+exact": prefill in
// FP8, decode exact).
std::unique_ptr<PrecisionController> MakePhasedController(PrecisionPlan prefill,
                                                          PrecisionPlan decode);

// FP8 for steps with more than `max_fp16_tokens` rows, else FP16 (NestedFP's serving rule).
std::unique_ptr<PrecisionController> MakeThresholdController(int64_t max_fp16_tokens);

struct SloSlackOptions {
  // Layers in the order in which they leave FP16, least sensitive first. Empty: from the middle of
  // the stack outwards: a guess, since models differ. Measure with `dualfp eval --per-layer`.
  std::vector<int> layer_order;
  int granularity = 0;           // layers switched together; 0: an eighth of the stack
  double safety = 1.1;           // predictions are multiplied by this plus the model's own error
  double release_seconds = 1.0;  // time over which a whole stack returns to FP16
};

// The fewest FP8 layers with which every deadline is met by the cost model's prediction; where no
// number suffices all of them, or none if the model has learnt that FP8 is slower for such a step.
// Attack is immediate; release is gradual, so that a queue that oscillates does not make the
// precision oscillate.
std::unique_ptr<PrecisionController> MakeSloSlackController(int num_layers,
                                                            SloSlackOptions options = {});

}  // namespace dualfp
