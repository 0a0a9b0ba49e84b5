// EngineCore, second half of a step: its tokens to outputs, and what is counted.

#include <algorithm>
#include <exception>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/engine/engine_core.h"

namespace dualfp {
namespace {

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

void EngineCore::Advance(const EngineStep& step, size_t index) {
  const StepPart& part = step.parts[index];
  const StepBatch& batch = step.batch;
  const GroupPlan& group = step.group(part.group);
  Sequence* sequence = part.sequence;
  RequestState& request = *sequence->request;
  const int64_t draws = part.num_draws > 0 ? batch.yielded()[index] : 0;
  CheckInternal(draws <= part.num_draws && (draws > 0 || part.num_draws == 0), "a part of ",
                part.num_draws, " draws yields ", draws, " tokens");
  const std::span<const int32_t> tokens =
      batch.tokens().subspan(batch.sample_start()[index], part.num_scores + draws);
  if (std::ranges::find(tokens, kNoToken) != tokens.end()) {
    Fail(&request, "the model's logits are NaN or infinite, or leave no token to choose");
    return;
  }
  CountPrompt(part, group.precision_class);
  // Drafts that were not confirmed are not part of the sequence.
  const int64_t end = part.begin + (part.num_drafts > 0 ? draws : part.count);
  if (sequence->residency == part.residency) {
    if (part.num_drafts > 0) {
      sequence->num_computed = end;
    }
    scheduler_.Complete(sequence, part.begin, end, group.tag, tokens.subspan(part.num_scores));
  }
  const auto scores_of = [&](int64_t sample) {
    const SampleRow& row = batch.samples()[sample];
    return batch.scores().subspan(row.score_begin, row.num_scores);
  };
  for (int64_t i = 0; i < part.num_scores; ++i) {
    const auto scores = scores_of(batch.sample_start()[index] + i);
    request.prompt_scores.insert(request.prompt_scores.end(), scores.begin(), scores.end());
  }
  if (draws > 0) {
    TakeDraws(step, index, draws);
  }
}

void EngineCore::TakeDraws(const EngineStep& step, size_t index, int64_t draws) {
  const StepPart& part = step.parts[index];
  const StepBatch& batch = step.batch;
  const PrecisionClass precision = step.group(part.group).precision_class;
  Sequence* sequence = part.sequence;
  RequestState& request = *sequence->request;
  const bool leads = NumChoicesDrawn(*sequence) > 1;
  // All forks before the first token: a choice that is finished has no blocks to share.
  for (int64_t choice = 1; leads && choice < draws; ++choice) {
    scheduler_.Fork(*sequence, &request.choices[choice]);
  }
  for (int64_t i = 0; i < draws; ++i) {
    Sequence* drawn = leads ? &request.choices[i] : sequence;
    if (drawn->state == SequenceState::kFinished) {
      break;  // by one of these tokens: the others are too many
    }
    const int64_t sample = batch.sample_start()[index] + part.num_scores + i;
    const SampleRow& row = batch.samples()[sample];
    AppendToken(drawn, batch.tokens()[sample],
                batch.scores().subspan(row.score_begin, row.num_scores), precision);
  }
}

void EngineCore::CountPrompt(const StepPart& part, PrecisionClass precision) {
  RequestState& request = *part.sequence->request;
  const int64_t begin = part.begin;
  const int64_t end = std::min(begin + part.count, request.prompt_size());
  if (end <= request.num_prompt_seen) {
    return;  // a decode, or computed again after a preemption
  }
  request.usage.cached_tokens += std::max<int64_t>(0, begin - request.num_prompt_seen);
  request.usage.prompt_by_precision[static_cast<size_t>(precision)] +=
      end - std::max(begin, request.num_prompt_seen);
  request.num_prompt_seen = end;
}

void EngineCore::AppendToken(Sequence* sequence, int32_t token, std::span<const ScoredToken> scores,
                             PrecisionClass precision) {
  RequestState& request = *sequence->request;
  sequence->output.push_back(token);
  sequence->new_scores.insert(sequence->new_scores.end(), scores.begin(), scores.end());
  ++request.usage.completion_tokens;
  ++request.usage.completion_by_precision[static_cast<size_t>(precision)];
  metrics_->generation_tokens_total.Add();

  if (request.timing.first_token == TimePoint{}) {
    request.timing.first_token = now_;
    metrics_->prompt_tokens_total.Add(request.prompt_size());
    metrics_->time_to_first_token_seconds.Observe(Seconds(now_ - request.timing.arrival));
  }
  if (sequence->last_token_time != TimePoint{}) {
    metrics_->inter_token_latency_seconds.Observe(Seconds(now_ - sequence->last_token_time));
  }
  sequence->last_token_time = request.timing.last_token = now_;

  Touch(sequence);
  if (const FinishReason reason = EndOf(sequence, token); reason != FinishReason::kNone) {
    FinishChoice(sequence, reason);
  } else if (sequence->text != nullptr) {
    sequence->text->Take(&sequence->new_text);
  }
}

// Adds the token's text, and says whether and why the choice ends with it. Order and conditions are
// vLLM's: a stop token's text is not shown unless stop strings are; stop strings are looked for
// only past min_tokens, and win over max_tokens.
FinishReason EngineCore::EndOf(Sequence* sequence, int32_t token) {
  const RequestState& request = *sequence->request;
  const SamplingParams& sampling = request.request.sampling;
  const auto length = static_cast<int64_t>(sequence->output.size());

  FinishReason reason = FinishReason::kNone;
  const bool may_stop = length >= sampling.min_tokens;
  const auto own_ids = request.stop_ids.begin() + request.num_eos;
  if (may_stop && !sampling.ignore_eos &&
      std::find(request.stop_ids.begin(), own_ids, token) != own_ids) {
    reason = FinishReason::kStop;
  } else if (may_stop &&
             std::find(own_ids, request.stop_ids.end(), token) != request.stop_ids.end()) {
    reason = FinishReason::kStop;
    sequence->stop_reason = token;
  } else if (length >= request.completion_limit) {
    reason = FinishReason::kLength;
  }
  const bool hidden = reason == FinishReason::kStop && !sampling.include_stop_str_in_output;
  if (sequence->text != nullptr && !hidden) {
    const int stop = sequence->text->Append(token, length > sampling.min_tokens);
    if (stop >= 0) {
      reason = FinishReason::kStop;
      sequence->stop_reason.emplace<std::string_view>(sampling.stop[stop]);
    }
  }
  return reason;
}

void EngineCore::Touch(Sequence* sequence) {
  sequence->touched = true;
  if (!sequence->request->touched) {
    sequence->request->touched = true;
    touched_.push_back(sequence->request);
  }
}

void EngineCore::FinishChoice(Sequence* sequence, FinishReason reason, bool poisoned) {
  if (sequence->state == SequenceState::kFinished) {
    return;
  }
  scheduler_.Finish(sequence, poisoned);
  sequence->finish_reason = reason;
  --sequence->request->num_unfinished;
  if (sequence->text != nullptr) {
    sequence->text->Finish();
    sequence->text->Take(&sequence->new_text);
  }
  Touch(sequence);
}

void EngineCore::Fail(RequestState* request, const std::string& message) {
  for (Sequence& sequence : request->choices) {
    FinishChoice(&sequence, FinishReason::kError, /*poisoned=*/true);
  }
  request->error = message;
}

void EngineCore::PublishTouched() {
  for (RequestState* request : touched_) {
    const bool finished = request->num_unfinished == 0;
    if (finished) {
      RecordFinished(*request);
    }
    publisher_.Publish(request);
    if (finished) {
      const auto at = requests_.find(request->id);
      if (request->parts_in_flight > 0) {
        retired_.push_back(std::move(at->second));
      }
      requests_.erase(at);
    }
  }
  touched_.clear();
}

void EngineCore::RecordFinished(const RequestState& request) {
  FinishReason reason = FinishReason::kStop;
  size_t longest = 0;
  for (const Sequence& sequence : request.choices) {
    longest = std::max(longest, sequence.output.size());
    // Of several choices, the gravest end is the request's.
    reason = std::max(reason, sequence.finish_reason);
  }
  metrics_->request_success_total[static_cast<size_t>(reason) - 1].Add();
  metrics_->request_prompt_tokens.Observe(static_cast<double>(request.usage.prompt_tokens));
  metrics_->request_generation_tokens.Observe(static_cast<double>(request.usage.completion_tokens));
  metrics_->e2e_request_latency_seconds.Observe(Seconds(now_ - request.timing.arrival));
  if (longest > 1) {
    metrics_->request_time_per_output_token_seconds.Observe(
        Seconds(request.timing.last_token - request.timing.first_token) /
        static_cast<double>(longest - 1));
  }
}

void EngineCore::RecordStep(const EngineStep& step) {
  const StepReport& report = step.report;
  metrics_->iteration_tokens_total.Observe(static_cast<double>(step.batch.rows()));
  for (const GroupPlan& group : step.groups) {
    metrics_->precision_tokens_total[static_cast<size_t>(group.precision_class)].Add(group.rows);
  }
  metrics_->step_duration_seconds[static_cast<size_t>(step.OverallClass())].Observe(report.seconds);
  metrics_->precision_switches_total.Add(report.switched ? 1 : 0);
  metrics_->precision_mode.Set(step.Fp8Share());
  const SchedulerCounts& counts = scheduler_.counts();
  metrics_->num_preemptions_total.Add(counts.preemptions - reported_.preemptions);
  metrics_->prefix_cache_queries_total.Add(counts.cache_queries - reported_.cache_queries);
  metrics_->prefix_cache_hits_total.Add(counts.cache_hits - reported_.cache_hits);
  reported_ = counts;
  if (config_.on_step) {
    config_.on_step(report);
  }
}

void EngineCore::UpdateGauges() {
  metrics_->num_requests_running.Set(static_cast<double>(scheduler_.running().size()));
  metrics_->num_requests_waiting.Set(static_cast<double>(scheduler_.waiting().size()));
  metrics_->kv_cache_usage_perc.Set(1.0 - static_cast<double>(pool_.num_free()) /
                                              static_cast<double>(pool_.num_blocks()));
}

}  // namespace dualfp
