#include "dualfp/engine/engine_core.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"

namespace dualfp {
namespace {

// A choice that is ahead of its schedule may be this many tokens' time late with its next one; a
// larger credit would allow a stall that a reader notices.
constexpr double kMaxTokenCredit = 4.0;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

SchedulerConfig MakeSchedulerConfig(const EngineConfig& config, const RunnerInfo& info) {
  SchedulerConfig scheduler;
  scheduler.max_tokens = std::min(config.max_num_batched_tokens, info.max_rows);
  scheduler.max_sequences = std::min(config.max_num_seqs, info.max_sequences);
  scheduler.max_logit_rows = info.max_logit_rows;
  scheduler.max_waiting = config.max_waiting;
  return scheduler;
}

int CheckedBlocks(const RunnerInfo& info) {
  Check(info.num_blocks >= 1 && info.num_blocks * info.block_size <= INT32_MAX,
        ErrorCode::kInvalidArgument, "a KV cache of ", info.num_blocks, " blocks of ",
        info.block_size, " tokens: expected at least one block and at most 2^31 tokens");
  return static_cast<int>(info.num_blocks);
}

}  // namespace

EngineCore::EngineCore(const EngineConfig& config, ModelRunner* runner,
                       const Vocabulary* vocabulary,
                       std::shared_ptr<PrecisionController> controller, EngineMetrics* metrics,
                       Hash128 hash_key)
    : config_(config),
      runner_(runner),
      metrics_(metrics),
      pool_(CheckedBlocks(runner->info()), runner->info().block_size, config.enable_prefix_caching,
            hash_key),
      scheduler_(MakeSchedulerConfig(config, runner->info()), &pool_),
      sampler_(runner->info().vocab_size, config.threads),
      publisher_(vocabulary),
      arena_(runner->NewBatch()),
      plan_(PrecisionPlan::Uniform(runner->info().num_layers, Precision::kFp16)),
      fp16_tag_(TagOf(plan_)),
      fp8_tag_(TagOf(PrecisionPlan::Uniform(runner->info().num_layers, Precision::kFp8))) {
  const SchedulerConfig& bounds = scheduler_.config();
  touched_.reserve(bounds.max_sequences);
  deadlines_.reserve(bounds.max_sequences + config.max_waiting);
  jobs_.reserve(bounds.max_logit_rows + config.max_choices);
  job_begin_.reserve(bounds.max_sequences + 1);
  SetController(std::move(controller));
}

void EngineCore::Add(std::unique_ptr<RequestState> request) {
  request->cache_class = runner_->CacheClass(request->max_length());
  scheduler_.Add(&request->choices[0]);
  const RequestId id = request->id;
  requests_.emplace(id, std::move(request));
  UpdateGauges();
}

void EngineCore::Cancel(RequestId id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) {
    return;
  }
  now_ = Now();
  for (Sequence& sequence : found->second->choices) {
    FinishChoice(&sequence, FinishReason::kAbort);
  }
  PublishTouched();
  UpdateGauges();
}

void EngineCore::CancelAll() {
  while (!requests_.empty()) {
    Cancel(requests_.begin()->first);
  }
}

void EngineCore::Abandon(std::vector<std::unique_ptr<RequestState>> more,
                         const std::string& message) {
  for (std::unique_ptr<RequestState>& request : more) {
    const RequestId id = request->id;
    requests_.emplace(id, std::move(request));
  }
  for (auto& [id, request] : requests_) {
    request->error = message;
    request->num_unfinished = 0;
    for (Sequence& sequence : request->choices) {
      if (sequence.finish_reason == FinishReason::kNone) {
        sequence.finish_reason = FinishReason::kError;
        sequence.touched = true;
      }
    }
    RecordFinished(*request);
    publisher_.Publish(request.get());
  }
  requests_.clear();
  touched_.clear();
}

void EngineCore::SetController(std::shared_ptr<PrecisionController> controller) {
  controller_ = std::move(controller);
  if (!controller_->adaptive()) {
    PrecisionPlan plan = plan_;
    controller_->Choose(StepSummary{}, &plan);
    fixed_tag_ = TagOf(plan);
  }
}

CacheTagsByPin EngineCore::CacheTagsNow() const {
  CacheTagsByPin tags;
  tags[static_cast<size_t>(PrecisionPin::kFp16)].Add(fp16_tag_);
  tags[static_cast<size_t>(PrecisionPin::kFp8)].Add(fp8_tag_);
  CacheTags& free = tags[static_cast<size_t>(PrecisionPin::kAuto)];
  if (controller_->adaptive()) {
    // Any will do; what the last step ran at is the most likely to be there.
    free.Add(RecordTag());
    free.Add(fp16_tag_);
    free.Add(fp8_tag_);
    free.Add(kMixedPrecisionTag);
  } else {
    free.Add(fixed_tag_);
  }
  return tags;
}

// An adaptive controller's plans are many, and none comes back for sure: those that are not uniform
// count as one.
uint64_t EngineCore::RecordTag() const {
  return controller_->adaptive() && ClassOf(plan_) == PrecisionClass::kMixed ? kMixedPrecisionTag
                                                                             : TagOf(plan_);
}

void EngineCore::CollectDeadlines() {
  deadlines_.clear();
  const int64_t chunk =
      std::max<int64_t>(1, scheduler_.config().max_tokens - arena_.features().decode_sequences);
  int64_t ahead = 0;  // tokens to compute before and for the sequence at hand
  const auto add = [&](const Sequence& sequence) {
    const RequestState& request = *sequence.request;
    int steps = 1;
    if (sequence.num_remaining() > 1) {
      ahead += sequence.num_remaining();
      steps = static_cast<int>((ahead + chunk - 1) / chunk);
    }
    if (sequence.output.empty()) {
      if (request.request.ttft_target > 0.0) {
        const double waited = Seconds(now_ - request.timing.arrival);
        deadlines_.push_back({request.id, request.request.ttft_target - waited, steps});
      }
    } else if (const double target = request.request.tpot_target; target > 0.0) {
      const auto tokens = static_cast<double>(sequence.output.size());
      const double due = tokens * target - Seconds(now_ - request.timing.first_token);
      const double latest = kMaxTokenCredit * target - Seconds(now_ - sequence.last_token_time);
      deadlines_.push_back({request.id, std::min(due, latest), steps});
    }
  };
  for (const Sequence* sequence : scheduler_.running()) {
    add(*sequence);
  }
  for (size_t i = scheduler_.waiting().size(); i-- > 0;) {
    add(*scheduler_.waiting()[i]);
  }
}

void EngineCore::ChoosePlan() {
  const uint64_t before = TagOf(plan_);
  bool pinned_fp16 = false;
  bool pinned_fp8 = false;
  for (const Sequence* sequence : scheduler_.scheduled()) {
    pinned_fp16 |= sequence->request->request.precision == PrecisionPin::kFp16;
    pinned_fp8 |= sequence->request->request.precision == PrecisionPin::kFp8;
  }

  StepSummary summary;
  summary.now = now_;
  summary.features = arena_.features();
  summary.batch_tokens = summary.features.prefill_tokens + summary.features.decode_sequences;
  summary.num_running = static_cast<int>(scheduler_.running().size());
  summary.num_waiting = static_cast<int>(scheduler_.waiting().size());
  summary.cost = &cost_;
  if (controller_->adaptive()) {
    CollectDeadlines();
    summary.deadlines = deadlines_;
  }
  controller_->Choose(summary, &plan_);
  if (pinned_fp16) {
    SetAll(&plan_, Precision::kFp16);
  } else if (pinned_fp8) {
    SetAll(&plan_, Precision::kFp8);
  }
  class_ = ClassOf(plan_);
  switched_ = step_ > 0 && TagOf(plan_) != before;
}

bool EngineCore::Step() {
  if (requests_.empty()) {
    return false;
  }
  StepReport report;
  report.start = now_ = Now();
  scheduler_.Schedule(CacheTagsNow());
  const std::span<Sequence* const> scheduled = scheduler_.scheduled();
  UpdateGauges();
  arena_.Fill(scheduled);
  ChoosePlan();
  for (const Sequence* sequence : scheduled) {
    RequestState& request = *sequence->request;
    if (request.timing.first_scheduled == TimePoint{}) {
      request.timing.first_scheduled = now_;
      metrics_->request_queue_time_seconds.Observe(Seconds(now_ - request.timing.arrival));
    }
  }

  report.step = step_++;
  report.num_running = static_cast<int>(scheduler_.running().size());
  report.num_waiting = static_cast<int>(scheduler_.waiting().size());
  report.kv_usage =
      1.0 - static_cast<double>(pool_.num_free()) / static_cast<double>(pool_.num_blocks());
  report.features = arena_.features();
  report.plan = &plan_;
  report.switched = switched_;
  const double fp8_fraction = Fp8Fraction(plan_);
  report.predicted_seconds = cost_.Predict(report.features, fp8_fraction);

  std::string failure;
  try {
    const ConstTensorView logits = runner_->Execute(arena_.Batch(&plan_));
    report.execute_seconds = Seconds(Now() - report.start);
    BuildJobs(logits);
    sampler_.Run(jobs_);
  } catch (const std::exception& error) {
    failure = StrCat("the model could not compute a step: ", error.what());
  }
  now_ = Now();
  report.seconds = Seconds(now_ - report.start);
  if (failure.empty()) {
    for (size_t index = 0; index < scheduled.size(); ++index) {
      Advance(index);
    }
    cost_.Observe(report.features, fp8_fraction, report.seconds);
  } else {
    LogWarning(failure);
    metrics_->step_errors_total.Add();
    for (const Sequence* sequence : scheduled) {
      Fail(sequence->request, failure);
    }
  }
  // Before anyone is told: whoever has a request's last output finds its tokens counted.
  RecordStep(report);
  PublishTouched();
  UpdateGauges();
  return true;
}

void EngineCore::CheckInvariants() const {
  std::vector<int> references(pool_.num_blocks(), 0);
  size_t running = 0;
  size_t waiting = 0;
  for (const auto& [id, request] : requests_) {
    int unfinished = 0;
    for (const Sequence& sequence : request->choices) {
      for (const int32_t block : sequence.blocks) {
        ++references[block];
      }
      unfinished += sequence.state != SequenceState::kFinished;
      running += sequence.state == SequenceState::kRunning;
      waiting += sequence.state == SequenceState::kWaiting;
      const auto places = static_cast<int64_t>(sequence.blocks.size()) * pool_.block_size();
      CheckInternal(
          sequence.num_computed <= places && sequence.num_computed < sequence.num_tokens(),
          "request ", id, " has computed ", sequence.num_computed, " tokens of ",
          sequence.num_tokens(), " into ", places, " places");
      CheckInternal(sequence.state == SequenceState::kRunning || sequence.blocks.empty(),
                    "request ", id, " holds KV blocks and does not run");
      CheckInternal(sequence.num_scheduled == 0 && sequence.copy_source < 0, "request ", id,
                    " is scheduled between two steps");
    }
    CheckInternal(unfinished == request->num_unfinished && unfinished > 0, "request ", id, " has ",
                  unfinished, " choices left, and counts ", request->num_unfinished);
  }
  CheckInternal(running == scheduler_.running().size() && waiting == scheduler_.waiting().size(),
                "a sequence is in no list, or in two");
  CheckInternal(static_cast<int>(running) <= scheduler_.config().max_sequences,
                "too many sequences run");
  CheckInternal(std::ranges::is_sorted(
                    scheduler_.running(),
                    [](const Sequence* a, const Sequence* b) { return MoreImportant(*a, *b); }) &&
                    std::ranges::is_sorted(
                        scheduler_.waiting(),
                        [](const Sequence* a, const Sequence* b) { return MoreImportant(*b, *a); }),
                "a list is out of order");
  pool_.CheckInvariants(references);
}

}  // namespace dualfp
