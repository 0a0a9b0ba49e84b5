#include "dualfp/engine/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "dualfp/engine/request.h"

namespace dualfp {
namespace {

std::vector<double> FirstTokenBuckets() {
  return {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
          1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};
}

std::vector<double> PerTokenBuckets() {
  return {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,  0.3,  0.4, 0.5,
          0.75, 1.0,   2.5,  5.0,   7.5, 10.0, 20.0, 40.0, 80.0};
}

std::vector<double> RequestBuckets() {
  return {0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
          30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
}

std::vector<double> IterationBuckets() {
  return {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
}

// A step is shorter than what a user waits for: finer at the low end.
std::vector<double> StepBuckets() {
  return {0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05,
          0.075,  0.1,   0.15,  0.2,   0.3,   0.5,    0.75, 1.0,   2.0,  5.0};
}

// 1, 2, 5, 10, 20, 50, ... up to the longest sequence.
std::vector<double> LengthBuckets(int64_t max_model_len) {
  std::vector<double> bounds;
  for (double decade = 1;; decade *= 10) {
    for (const double step : {1.0, 2.0, 5.0}) {
      if (step * decade > static_cast<double>(max_model_len)) {
        return bounds;
      }
      bounds.push_back(step * decade);
    }
  }
}

}  // namespace

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

void Histogram::Observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[bucket].fetch_add(1, std::memory_order_relaxed);
  sum_.store(sum_.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
}

Histogram::Snapshot Histogram::Read() const {
  Snapshot snapshot;
  snapshot.bounds = bounds_;
  for (const auto& count : counts_) {
    snapshot.counts.push_back(count.load(std::memory_order_relaxed));
    snapshot.count += snapshot.counts.back();
  }
  snapshot.sum = sum_.load(std::memory_order_relaxed);
  return snapshot;
}

double Histogram::Snapshot::Quantile(double q) const {
  if (count == 0) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  const double wanted = q * static_cast<double>(count);
  double below = 0.0;
  for (size_t bucket = 0; bucket < bounds.size(); ++bucket) {
    const auto inside = static_cast<double>(counts[bucket]);
    if (inside > 0 && below + inside >= wanted) {
      const double low = bucket == 0 ? 0.0 : bounds[bucket - 1];
      return low + (bounds[bucket] - low) * (wanted - below) / inside;
    }
    below += inside;
  }
  return bounds.empty() ? std::numeric_limits<double>::quiet_NaN() : bounds.back();
}

EngineMetrics::EngineMetrics(int64_t max_model_len)
    : time_to_first_token_seconds(FirstTokenBuckets()),
      inter_token_latency_seconds(PerTokenBuckets()),
      request_time_per_output_token_seconds(PerTokenBuckets()),
      e2e_request_latency_seconds(RequestBuckets()),
      request_queue_time_seconds(RequestBuckets()),
      request_prompt_tokens(LengthBuckets(max_model_len)),
      request_generation_tokens(LengthBuckets(max_model_len)),
      iteration_tokens_total(IterationBuckets()),
      step_duration_seconds{Histogram(StepBuckets()), Histogram(StepBuckets()),
                            Histogram(StepBuckets()), Histogram(StepBuckets())} {}

void EngineMetrics::ForEach(MetricVisitor& visitor) const {
  const auto plain = [&](std::string_view name, std::string_view help, const auto& metric) {
    visitor.Visit(name, help, MetricLabel{}, metric);
  };
  const auto by_precision = [&](std::string_view name, std::string_view help, const auto& metrics) {
    for (int index = 0; index < kNumPrecisionClasses; ++index) {
      visitor.Visit(name, help,
                    {"precision", PrecisionClassName(static_cast<PrecisionClass>(index))},
                    metrics[index]);
    }
  };

  plain("num_requests_running", "Sequences in the running set.", num_requests_running);
  plain("num_requests_waiting", "Sequences and requests waiting to run.", num_requests_waiting);
  plain("kv_cache_usage_perc", "KV blocks held by requests, 1 = all.", kv_cache_usage_perc);
  plain("precision_mode", "Fraction of layers in FP8 in the last step, 0 = FP16, 1 = FP8.",
        precision_mode);

  plain("prompt_tokens_total", "Prompt tokens processed.", prompt_tokens_total);
  plain("generation_tokens_total", "Tokens generated.", generation_tokens_total);
  for (int index = 0; index < 4; ++index) {
    visitor.Visit("request_success_total", "Requests that ended, by the reason.",
                  {"finished_reason", FinishReasonName(static_cast<FinishReason>(index + 1))},
                  request_success_total[index]);
  }
  plain("requests_rejected_total", "Requests refused because the queue was full.",
        requests_rejected_total);
  plain("num_preemptions_total", "Sequences that lost their KV blocks to others.",
        num_preemptions_total);
  plain("prefix_cache_queries_total", "Tokens looked up in the prefix cache.",
        prefix_cache_queries_total);
  plain("prefix_cache_hits_total", "Tokens found in the prefix cache.", prefix_cache_hits_total);
  by_precision("precision_tokens_total", "Token rows computed, by precision.",
               precision_tokens_total);
  plain("precision_switches_total", "Steps whose plan differed from the step before.",
        precision_switches_total);
  plain("step_errors_total", "Steps that failed.", step_errors_total);

  plain("time_to_first_token_seconds", "Arrival to first token.", time_to_first_token_seconds);
  plain("inter_token_latency_seconds", "Time between two tokens of a choice.",
        inter_token_latency_seconds);
  plain("request_time_per_output_token_seconds", "Mean time per token after the first.",
        request_time_per_output_token_seconds);
  plain("e2e_request_latency_seconds", "Arrival to last token.", e2e_request_latency_seconds);
  plain("request_queue_time_seconds", "Arrival to first step.", request_queue_time_seconds);
  plain("request_prompt_tokens", "Prompt tokens of a request.", request_prompt_tokens);
  plain("request_generation_tokens", "Tokens generated for a request, all choices.",
        request_generation_tokens);
  plain("iteration_tokens_total", "Token rows of a step.", iteration_tokens_total);
  by_precision("step_duration_seconds", "Duration of a step, by precision.", step_duration_seconds);
}

}  // namespace dualfp
