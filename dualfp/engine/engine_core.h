// The engine without its thread: requests in, Step() by Step(), outputs to sinks. Everything runs
// on the caller's thread, in a fixed order; Engine (engine.h) puts a thread and a queue around it.

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "dualfp/engine/block_pool.h"
#include "dualfp/engine/engine.h"
#include "dualfp/engine/metrics.h"
#include "dualfp/engine/model_runner.h"
#include "dualfp/engine/precision/precision_controller.h"
#include "dualfp/engine/precision/step_cost_model.h"
#include "dualfp/engine/publisher.h"
#include "dualfp/engine/sampling/sampler.h"
#include "dualfp/engine/scheduler.h"
#include "dualfp/engine/sequence.h"
#include "dualfp/engine/step_arena.h"

namespace dualfp {

class EngineCore {
 public:
  // Pointers outlive this object. `hash_key` should be random (block_pool.h).
  EngineCore(const EngineConfig& config, ModelRunner* runner, const Vocabulary* vocabulary,
             std::shared_ptr<PrecisionController> controller, EngineMetrics* metrics,
             Hash128 hash_key);

  // Takes a request that MakeRequestState made and that has its id; ids ascend.
  void Add(std::unique_ptr<RequestState> request);

  // The request ends now with kAbort. Unknown ids are ignored.
  void Cancel(RequestId id);
  void CancelAll();

  // After an exception out of one of these, which says that accounts are broken: ends all requests,
  // and those given, with kError. Only destruction may follow.
  void Abandon(std::vector<std::unique_ptr<RequestState>> more, const std::string& message);

  // From the next step on.
  void SetController(std::shared_ptr<PrecisionController> controller);
  const PrecisionController& controller() const { return *controller_; }

  // One step: schedule, choose the precision, execute, sample, publish. False when there is nothing
  // to do. A failure of the runner ends the requests of the step; only a broken invariant throws.
  bool Step();

  bool idle() const { return requests_.empty(); }
  size_t num_requests() const { return requests_.size(); }
  const PrecisionPlan& plan() const { return plan_; }
  const StepCostModel& cost() const { return cost_; }
  const Scheduler& scheduler() const { return scheduler_; }
  const BlockPool& pool() const { return pool_; }

  // Throws kInternal unless all accounts agree. For tests.
  void CheckInvariants() const;

 private:
  TimePoint Now() const { return config_.now ? config_.now() : Clock::now(); }
  CacheTagsByPin CacheTagsNow() const;
  uint64_t RecordTag() const;
  void CollectDeadlines();
  void ChoosePlan();
  void BuildJobs(const ConstTensorView& logits);
  void Advance(size_t index);
  void CountPrompt(const Sequence& sequence);
  void AppendToken(Sequence* sequence, const SampleJob& job);
  FinishReason EndOf(Sequence* sequence, int32_t token);
  void Touch(Sequence* sequence);
  void FinishChoice(Sequence* sequence, FinishReason reason, bool poisoned = false);
  void Fail(RequestState* request, const std::string& message);
  void PublishTouched();
  void RecordFinished(const RequestState& request);
  void RecordStep(const StepReport& report);
  void UpdateGauges();

  EngineConfig config_;
  ModelRunner* runner_;
  EngineMetrics* metrics_;
  std::shared_ptr<PrecisionController> controller_;

  BlockPool pool_;
  Scheduler scheduler_;
  SchedulerCounts reported_;  // of the scheduler's, what the metrics have
  Sampler sampler_;
  Publisher publisher_;
  StepArena arena_;
  StepCostModel cost_;

  std::unordered_map<RequestId, std::unique_ptr<RequestState>> requests_;
  std::vector<RequestState*> touched_;

  PrecisionPlan plan_;
  uint64_t fixed_tag_ = 0;  // of the controller's plan, where it is not adaptive
  const uint64_t fp16_tag_;
  const uint64_t fp8_tag_;

  // Of the step at hand.
  uint64_t step_ = 0;
  TimePoint now_;
  bool switched_ = false;
  PrecisionClass class_ = PrecisionClass::kFp16;
  std::vector<DeadlineSlack> deadlines_;
  std::vector<SampleJob> jobs_;
  std::vector<size_t> job_begin_;  // of each scheduled sequence, and the end
};

}  // namespace dualfp
