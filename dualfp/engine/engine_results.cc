// EngineCore, second half of a step: logits to tokens, tokens to outputs, and what is counted.

#include <algorithm>
#include <exception>

#include "dualfp/base/check.h"
#include "dualfp/engine/engine_core.h"

namespace dualfp {
namespace {

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// Choices that take their first token from the logits of the prompt's last row: the sequence's own,
// and those that are not born yet.
int NumDraws(const Sequence& sequence) {
  const auto& choices = sequence.request->choices;
  const bool leads =
      sequence.choice == 0 && choices.size() > 1 && choices.back().state == SequenceState::kUnborn;
  return leads ? static_cast<int>(choices.size()) : 1;
}

}  // namespace

void EngineCore::BuildJobs(const ConstTensorView& logits) {
  const int64_t vocab_size = runner_->info().vocab_size;
  const auto row = [&](int64_t index) {
    return std::span(logits.as<float>() + index * logits.strides[0],
                     static_cast<size_t>(vocab_size));
  };
  jobs_.clear();
  job_begin_.clear();
  const auto scheduled = scheduler_.scheduled();
  for (size_t index = 0; index < scheduled.size(); ++index) {
    Sequence* sequence = scheduled[index];
    RequestState& request = *sequence->request;
    job_begin_.push_back(jobs_.size());
    const int64_t draws = arena_.samples(index) ? 1 : 0;
    const int64_t num_scores = arena_.logit_begin(index + 1) - arena_.logit_begin(index) - draws;
    const size_t each = request.scores_per_prompt_token;
    const size_t first_score = request.prompt_scores.size();
    request.prompt_scores.resize(first_score + num_scores * each);
    for (int64_t i = 0; i < num_scores; ++i) {
      SampleJob job;
      job.logits = row(arena_.logit_begin(index) + i);
      job.token = request.request.prompt[request.num_prompt_scored + i + 1];
      job.scores = std::span(request.prompt_scores).subspan(first_score + i * each, each);
      jobs_.push_back(job);
    }
    if (draws == 0) {
      continue;
    }
    for (int choice = 0; choice < NumDraws(*sequence); ++choice) {
      Sequence& drawn = choice == 0 ? *sequence : request.choices[choice];
      drawn.new_scores.resize(request.scores_per_token);
      SampleJob job;
      job.logits = row(arena_.logit_begin(index + 1) - 1);
      job.state = &drawn.sampler;
      job.scores = drawn.new_scores;
      jobs_.push_back(job);
    }
  }
  job_begin_.push_back(jobs_.size());
}

void EngineCore::Advance(size_t index) {
  Sequence* sequence = scheduler_.scheduled()[index];
  RequestState& request = *sequence->request;
  if (sequence->state == SequenceState::kFinished) {
    return;  // another of its request's choices has failed in this step
  }
  const std::span<const SampleJob> jobs =
      std::span(jobs_).subspan(job_begin_[index], job_begin_[index + 1] - job_begin_[index]);
  if (!std::ranges::all_of(jobs, &SampleJob::ok)) {
    Fail(&request, "the model's logits are NaN or infinite, or leave no token to choose");
    return;
  }
  CountPrompt(*sequence);
  scheduler_.Complete(sequence, RecordTag());
  const int num_draws = arena_.samples(index) ? NumDraws(*sequence) : 0;
  request.num_prompt_scored += static_cast<int64_t>(jobs.size()) - num_draws;

  // All forks before the first token: a choice that is finished has no blocks to share.
  for (int choice = 1; choice < num_draws; ++choice) {
    scheduler_.Fork(*sequence, &request.choices[choice]);
  }
  for (int choice = 0; choice < num_draws; ++choice) {
    Sequence* drawn = choice == 0 ? sequence : &request.choices[choice];
    AppendToken(drawn, jobs[jobs.size() - num_draws + choice]);
  }
}

void EngineCore::CountPrompt(const Sequence& sequence) {
  RequestState& request = *sequence.request;
  const int64_t begin = sequence.num_computed;
  const int64_t end = std::min(begin + sequence.num_scheduled, request.prompt_size());
  if (end <= request.num_prompt_seen) {
    return;  // a decode, or computed again after a preemption
  }
  request.usage.cached_tokens += std::max<int64_t>(0, begin - request.num_prompt_seen);
  request.usage.prompt_by_precision[static_cast<size_t>(class_)] +=
      end - std::max(begin, request.num_prompt_seen);
  request.num_prompt_seen = end;
}

void EngineCore::AppendToken(Sequence* sequence, const SampleJob& job) {
  RequestState& request = *sequence->request;
  sequence->output.push_back(job.token);
  sequence->sampler.Append(job.token);
  ++request.usage.completion_tokens;
  ++request.usage.completion_by_precision[static_cast<size_t>(class_)];
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
  if (const FinishReason reason = EndOf(sequence, job.token); reason != FinishReason::kNone) {
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
    // Scores of a token that did not come.
    sequence.new_scores.resize(request->scores_per_token *
                               (sequence.output.size() - sequence.num_published));
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
      requests_.erase(request->id);
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

void EngineCore::RecordStep(const StepReport& report) {
  const auto rows = report.features.prefill_tokens + report.features.decode_sequences;
  metrics_->iteration_tokens_total.Observe(static_cast<double>(rows));
  metrics_->precision_tokens_total[static_cast<size_t>(class_)].Add(rows);
  metrics_->step_duration_seconds[static_cast<size_t>(class_)].Observe(report.seconds);
  metrics_->precision_switches_total.Add(report.switched ? 1 : 0);
  metrics_->precision_mode.Set(Fp8Fraction(plan_));
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
