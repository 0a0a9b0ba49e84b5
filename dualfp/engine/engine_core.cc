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
  scheduler.max_forks = config.max_choices - 1;
  scheduler.max_draft_tokens = info.max_draft_tokens;
  scheduler.max_waiting = config.max_waiting;
  return scheduler;
}

int CheckedBlocks(const RunnerInfo& info) {
  Check(info.num_blocks >= 1 && info.num_blocks * info.block_size <= INT32_MAX,
        ErrorCode::kInvalidArgument, "a KV cache of ", info.num_blocks, " blocks of ",
        info.block_size, " tokens: expected at least one block and at most 2^31 tokens");
  return static_cast<int>(info.num_blocks);
}

BatchLimits MakeBatchLimits(const EngineConfig& config, const RunnerInfo& info) {
  BatchLimits limits;
  limits.max_rows = info.max_rows;
  limits.max_sequences = info.max_sequences;
  limits.max_logit_rows = info.max_logit_rows;
  limits.max_context = info.max_model_len;
  limits.block_size = info.block_size;
  limits.max_samples = info.max_logit_rows + config.max_choices - 1;
  limits.max_scores =
      limits.max_samples * (1 + std::min<int64_t>(config.max_logprobs, info.vocab_size));
  return limits;
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
      publisher_(vocabulary),
      plan_(PrecisionPlan::Uniform(runner->info().num_layers, Precision::kExact)),
      prefill_plan_(plan_),
      fp16_tag_(TagOf(plan_)),
      fp8_tag_(TagOf(PrecisionPlan::Uniform(runner->info().num_layers, Precision::kFp8))) {
  const RunnerInfo& info = runner->info();
  Check(info.max_steps_in_flight == 1 || info.max_steps_in_flight == 2, ErrorCode::kInvalidArgument,
        "a runner of ", info.max_steps_in_flight, " steps in flight, expected 1 or 2");
  steps_.reserve(info.max_steps_in_flight);
  for (int i = 0; i < info.max_steps_in_flight; ++i) {
    steps_.emplace_back(runner->NewBatch(MakeBatchLimits(config_, info)), info.num_layers);
  }
  const SchedulerConfig& bounds = scheduler_.config();
  touched_.reserve(bounds.max_sequences);
  retired_.reserve(2 * bounds.max_sequences);
  deadlines_.reserve(bounds.max_sequences + config.max_waiting);
  SetController(std::move(controller));
}

EngineCore::~EngineCore() {
  for (; num_in_flight_ > 0; --num_in_flight_) {
    try {
      runner_->Wait();
    } catch (const std::exception& error) {
      LogWarning(StrCat("a step that nobody waits for any more failed: ", error.what()));
    }
  }
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
    fixed_tags_ = {};
    fixed_tags_.output.Add(TagOf(plan));
    controller_->ChoosePrefill(StepSummary{}, &plan);
    fixed_tags_.prompt.Add(TagOf(plan));
  }
}

CacheTagsByPin EngineCore::CacheTagsNow() const {
  CacheTagsByPin tags;
  const auto only = [](uint64_t tag) {
    CacheTags one;
    one.Add(tag);
    return UsableTags{one, one};
  };
  tags[static_cast<size_t>(PrecisionPin::kExact)] = only(fp16_tag_);
  tags[static_cast<size_t>(PrecisionPin::kFp8)] = only(fp8_tag_);
  UsableTags& free = tags[static_cast<size_t>(PrecisionPin::kAuto)];
  if (controller_->adaptive()) {
    // Any will do; what the last step ran at is the most likely to be there.
    CacheTags any;
    any.Add(RecordTag(plan_));
    any.Add(fp16_tag_);
    any.Add(fp8_tag_);
    any.Add(kMixedPrecisionTag);
    free = {any, any};
  } else {
    free = fixed_tags_;
  }
  return tags;
}

// An adaptive controller's plans are many, and none comes back for sure: those that are not uniform
// count as one.
uint64_t EngineCore::RecordTag(const PrecisionPlan& plan) const {
  return controller_->adaptive() && ClassOf(plan) == PrecisionClass::kMixed ? kMixedPrecisionTag
                                                                            : TagOf(plan);
}

void EngineCore::CollectDeadlines(const StepFeatures& features) {
  deadlines_.clear();
  const int64_t chunk =
      std::max<int64_t>(1, scheduler_.config().max_tokens - features.decode_sequences);
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

void EngineCore::ChoosePlans(EngineStep* step) {
  const uint64_t before = TagOf(plan_);
  step->CountRows(scheduler_.scheduled());
  const GroupPlan& decode = step->group(RowGroup::kDecode);
  const GroupPlan& prefill = step->group(RowGroup::kPrefill);
  const StepFeatures all = step->features();
  StepSummary summary;
  summary.now = now_;
  summary.features = {
      .prefill_tokens = decode.features.prefill_tokens + prefill.features.prefill_tokens,
      .decode_sequences = decode.features.decode_sequences + prefill.features.decode_sequences,
      .context_tokens = decode.features.context_tokens + prefill.features.context_tokens};
  for (const RowGroup pinned : {RowGroup::kPinnedFp16, RowGroup::kPinnedFp8}) {
    if (step->group(pinned).rows > 0) {
      summary.pinned.Add(step->group(pinned).features, pinned == RowGroup::kPinnedFp8 ? 1.0 : 0.0);
    }
  }
  summary.batch_tokens = all.prefill_tokens + all.decode_sequences;
  summary.num_running = static_cast<int>(scheduler_.running().size());
  summary.num_waiting = static_cast<int>(scheduler_.waiting().size());
  summary.cost = &cost_;
  if (controller_->adaptive()) {
    CollectDeadlines(all);
    summary.deadlines = deadlines_;
  }
  controller_->Choose(summary, &plan_);
  prefill_plan_ = plan_;
  controller_->ChoosePrefill(summary, &prefill_plan_);
  step->group(RowGroup::kDecode).plan = plan_;
  step->group(RowGroup::kPrefill).plan = prefill_plan_;
  for (GroupPlan& group : step->groups) {
    group.precision_class = ClassOf(group.plan);
  }
  step->group(RowGroup::kPinnedFp16).tag = fp16_tag_;
  step->group(RowGroup::kPinnedFp8).tag = fp8_tag_;
  step->group(RowGroup::kDecode).tag = RecordTag(plan_);
  step->group(RowGroup::kPrefill).tag = RecordTag(prefill_plan_);
  step->report.switched = num_steps_ > 0 && TagOf(plan_) != before;
}

bool EngineCore::Step() {
  if (idle()) {
    return false;
  }
  const auto depth = static_cast<int>(steps_.size());
  const bool launched = num_in_flight_ < depth && !requests_.empty() && LaunchStep();
  if (num_in_flight_ > 0 && (!launched || num_in_flight_ == depth)) {
    FinishStep();
  }
  return true;
}

bool EngineCore::LaunchStep() {
  EngineStep& step = steps_[(oldest_ + num_in_flight_) % steps_.size()];
  step.report = {};
  step.report.start = now_ = Now();
  scheduler_.Schedule(CacheTagsNow(), controller_->splits_prefill(), num_in_flight_ > 0);
  UpdateGauges();
  if (scheduler_.scheduled().empty()) {
    return false;
  }
  ChoosePlans(&step);
  for (const Sequence* sequence : scheduler_.scheduled()) {
    RequestState& request = *sequence->request;
    if (request.timing.first_scheduled == TimePoint{}) {
      request.timing.first_scheduled = now_;
      metrics_->request_queue_time_seconds.Observe(Seconds(now_ - request.timing.arrival));
    }
  }
  StepReport& report = step.report;
  report.step = num_steps_++;
  report.num_running = static_cast<int>(scheduler_.running().size());
  report.num_waiting = static_cast<int>(scheduler_.waiting().size());
  report.kv_usage =
      1.0 - static_cast<double>(pool_.num_free()) / static_cast<double>(pool_.num_blocks());
  report.features = step.features();
  report.plan = &step.group(RowGroup::kDecode).plan;
  report.predicted_seconds = cost_.Predict(step.Work());

  step.Fill(scheduler_.scheduled(), runner_);
  std::string failure;
  const TimePoint launch = Now();
  try {
    runner_->Launch(&step.batch);
  } catch (const std::exception& error) {
    failure = StrCat("the model could not compute a step: ", error.what());
  }
  report.execute_seconds = Seconds(Now() - launch);
  Launched(step);
  if (failure.empty()) {
    ++num_in_flight_;
  } else {
    End(&step, failure);
  }
  return true;
}

void EngineCore::Launched(const EngineStep& step) {
  for (size_t index = 0; index < step.parts.size(); ++index) {
    const StepPart& part = step.parts[index];
    Sequence* sequence = part.sequence;
    scheduler_.Launched(sequence);
    ++sequence->request->parts_in_flight;
    if (part.num_draws > 0) {
      ++sequence->num_pending;
      sequence->pending_sample =
          step.batch.sample_start()[index] + static_cast<int32_t>(part.num_scores);
      // How many tokens come, or whose, is known when the step has ended.
      sequence->held = part.num_draws > 1;
    }
  }
}

void EngineCore::FinishStep() {
  EngineStep& step = steps_[oldest_];
  std::string failure;
  const TimePoint wait = Now();
  try {
    runner_->Wait();
  } catch (const std::exception& error) {
    failure = StrCat("the model could not compute a step: ", error.what());
  }
  oldest_ = (oldest_ + 1) % static_cast<int>(steps_.size());
  --num_in_flight_;
  step.report.execute_seconds += Seconds(Now() - wait);
  End(&step, failure);
}

void EngineCore::End(EngineStep* step, const std::string& failure) {
  StepReport& report = step->report;
  now_ = Now();
  // With another step in flight when this one was launched, it has begun when that one ended.
  report.seconds = Seconds(now_ - std::max(report.start, last_end_));
  last_end_ = now_;
  if (!failure.empty()) {
    LogWarning(failure);
    metrics_->step_errors_total.Add();
  }
  for (size_t index = 0; index < step->parts.size(); ++index) {
    const StepPart& part = step->parts[index];
    --part.sequence->request->parts_in_flight;
    part.sequence->num_pending -= part.num_draws > 0 ? 1 : 0;
    part.sequence->held &= part.num_draws <= 1;
    if (part.sequence->state == SequenceState::kFinished) {
      continue;  // while the step was in flight: its token is one too many
    }
    if (failure.empty()) {
      Advance(*step, index);
    } else {
      Fail(part.sequence->request, failure);
    }
  }
  if (failure.empty()) {
    cost_.Observe(step->Work(), report.seconds);
  }
  // Before anyone is told: whoever has a request's last output finds its tokens counted.
  RecordStep(*step);
  PublishTouched();
  std::erase_if(retired_, [](const auto& request) { return request->parts_in_flight == 0; });
  UpdateGauges();
}

void EngineCore::CheckInvariants() const {
  std::vector<int> references(pool_.num_blocks(), 0);
  std::vector<bool> seats(scheduler_.config().max_sequences, false);
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
      CheckInternal(sequence.num_computed <= places &&
                        (sequence.num_computed < sequence.num_expected() || sequence.held),
                    "request ", id, " has computed ", sequence.num_computed, " tokens of ",
                    sequence.num_tokens(), " into ", places, " places");
      CheckInternal(sequence.state == SequenceState::kRunning || sequence.blocks.empty(),
                    "request ", id, " holds KV blocks and does not run");
      CheckInternal(sequence.num_scheduled == 0 && sequence.copy_source < 0, "request ", id,
                    " is scheduled between two steps");
      CheckInternal(sequence.num_pending <= num_in_flight_ &&
                        (request->parts_in_flight > 0 || !sequence.held),
                    "request ", id, " expects ", sequence.num_pending, " tokens of ",
                    num_in_flight_, " steps in flight");
      if (sequence.state == SequenceState::kRunning) {
        CheckInternal(!seats.at(sequence.seat), "request ", id, " shares its place");
        seats[sequence.seat] = true;
      }
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
