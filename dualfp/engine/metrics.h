// What the engine counts. Written by the engine, read by any thread at any time, without locks.
// Names, units and buckets are vLLM's; a renderer adds the prefix and the model_name label.

#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace dualfp {

class Counter {
 public:
  void Add(uint64_t amount = 1) { value_.fetch_add(amount, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

class Gauge {
 public:
  void Set(double value) { value_.store(value, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0.0};
};

class Histogram {
 public:
  // Ascending upper bounds; one more bucket, without a bound, is implied.
  explicit Histogram(std::vector<double> bounds);

  // One writer at a time.
  void Observe(double value);

  struct Snapshot {
    std::vector<double> bounds;
    std::vector<uint64_t> counts;  // of each bucket alone, not cumulative; bounds.size() + 1
    uint64_t count = 0;
    double sum = 0.0;

    // Linear within a bucket, as Prometheus' histogram_quantile. NaN when empty.
    double Quantile(double q) const;
  };
  Snapshot Read() const;

 private:
  std::vector<double> bounds_;
  std::vector<std::atomic<uint64_t>> counts_;
  std::atomic<double> sum_{0.0};
};

using MetricLabel = std::pair<std::string_view, std::string_view>;  // name and value; or empty

class MetricVisitor {
 public:
  virtual ~MetricVisitor() = default;
  // Metrics of one name come one after the other.
  virtual void Visit(std::string_view name, std::string_view help, MetricLabel label,
                     const Counter& counter) = 0;
  virtual void Visit(std::string_view name, std::string_view help, MetricLabel label,
                     const Gauge& gauge) = 0;
  virtual void Visit(std::string_view name, std::string_view help, MetricLabel label,
                     const Histogram& histogram) = 0;
};

struct EngineMetrics {
  explicit EngineMetrics(int64_t max_model_len);

  void ForEach(MetricVisitor& visitor) const;

  Gauge num_requests_running;  // sequences in the running set
  Gauge num_requests_waiting;
  Gauge kv_cache_usage_perc;  // 0 ... 1, blocks that requests hold
  Gauge precision_mode;       // fraction of layers in FP8 in the last step: 0 = FP16, 1 = FP8

  Counter prompt_tokens_total;
  Counter generation_tokens_total;
  Counter request_success_total[4];  // by FinishReason - 1: stop, length, abort, error
  Counter requests_rejected_total;   // queue full
  Counter num_preemptions_total;
  Counter prefix_cache_queries_total;  // tokens
  Counter prefix_cache_hits_total;     // tokens
  Counter precision_tokens_total[4];   // by PrecisionClass: rows computed
  Counter precision_switches_total;
  Counter step_errors_total;

  Histogram time_to_first_token_seconds;
  Histogram inter_token_latency_seconds;
  Histogram request_time_per_output_token_seconds;
  Histogram e2e_request_latency_seconds;
  Histogram request_queue_time_seconds;
  Histogram request_prompt_tokens;
  Histogram request_generation_tokens;
  Histogram iteration_tokens_total;
  Histogram step_duration_seconds[4];  // by PrecisionClass
};

}  // namespace dualfp
