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
#include "dualfp/engine/scheduler.h"
#include "dualfp/engine/sequence.h"
#include "dualfp/engine/step.h"

namespace dualfp {

class EngineCore {
 public:
  // Pointers outlive this object. `hash_key` should be random (block_pool.h).
  EngineCore(const EngineConfig& config, ModelRunner* runner, const Vocabulary* vocabulary,
             std::shared_ptr<PrecisionController> controller, EngineMetrics* metrics,
             Hash128 hash_key);
  // Waits for the steps in flight.
  ~EngineCore();
  EngineCore(const EngineCore&) = delete;
  EngineCore& operator=(const EngineCore&) = delete;

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

  // Plans and launches a step where one more may be in flight, and ends the oldest, with outputs to
  // its requests, where no more may or there was nothing to launch. With one step in flight, that
  // is one whole step. False when there is nothing to do. A failure of the runner ends the requests
  // of the step; only a broken invariant throws.
  bool Step();

  // Nothing at hand, nothing in flight.
  bool idle() const { return requests_.empty() && num_in_flight_ == 0; }
  size_t num_requests() const { return requests_.size(); }
  int num_in_flight() const { return num_in_flight_; }
  // The controller's last, for rows that generate.
  const PrecisionPlan& plan() const { return plan_; }
  const StepCostModel& cost() const { return cost_; }
  const Scheduler& scheduler() const { return scheduler_; }
  const BlockPool& pool() const { return pool_; }

  // Throws kInternal unless all accounts agree. For tests.
  void CheckInvariants() const;

 private:
  TimePoint Now() const { return config_.now ? config_.now() : Clock::now(); }
  CacheTagsByPin CacheTagsNow() const;
  uint64_t RecordTag(const PrecisionPlan& plan) const;
  void CollectDeadlines(const StepFeatures& features);
  void ChoosePlans(EngineStep* step);
  bool LaunchStep();
  void FinishStep();
  void Launched(const EngineStep& step);
  void End(EngineStep* step, const std::string& failure);
  void Advance(const EngineStep& step, size_t index);
  void TakeDraws(const EngineStep& step, size_t index, int64_t draws);
  void CountPrompt(const StepPart& part, PrecisionClass precision);
  // Scores: the token's and its tops, where asked for.
  void AppendToken(Sequence* sequence, int32_t token, std::span<const ScoredToken> scores,
                   PrecisionClass precision);
  FinishReason EndOf(Sequence* sequence, int32_t token);
  void Touch(Sequence* sequence);
  void FinishChoice(Sequence* sequence, FinishReason reason, bool poisoned = false);
  void Fail(RequestState* request, const std::string& message);
  void PublishTouched();
  void RecordFinished(const RequestState& request);
  void RecordStep(const EngineStep& step);
  void UpdateGauges();

  EngineConfig config_;
  ModelRunner* runner_;
  EngineMetrics* metrics_;
  std::shared_ptr<PrecisionController> controller_;

  BlockPool pool_;
  Scheduler scheduler_;
  SchedulerCounts reported_;  // of the scheduler's, what the metrics have
  Publisher publisher_;
  StepCostModel cost_;

  std::unordered_map<RequestId, std::unique_ptr<RequestState>> requests_;
  std::vector<RequestState*> touched_;
  // Finished, and still in steps in flight.
  std::vector<std::unique_ptr<RequestState>> retired_;

  // A ring: num_in_flight_ of them, from oldest_ on, are launched.
  std::vector<EngineStep> steps_;
  int oldest_ = 0;
  int num_in_flight_ = 0;
  TimePoint last_end_;  // of a step

  PrecisionPlan plan_;
  PrecisionPlan prefill_plan_;
  UsableTags fixed_tags_;  // of the controller's plans, where it is not adaptive
  const uint64_t fp16_tag_;
  const uint64_t fp8_tag_;

  uint64_t num_steps_ = 0;
  TimePoint now_;
  std::vector<DeadlineSlack> deadlines_;
};

}  // namespace dualfp
