#include "bench/serving/report/serving_metrics.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

int64_t PeakConcurrency(const std::vector<RequestRecord>& records) {
  std::vector<std::pair<double, int>> changes;
  for (const RequestRecord& record : records) {
    if (record.ok()) {
      changes.emplace_back(record.start, +1);
      changes.emplace_back(record.start + record.latency, -1);
    }
  }
  // Where one ends as another begins, the two do not overlap: -1 sorts first.
  std::sort(changes.begin(), changes.end());
  int64_t now = 0;
  int64_t peak = 0;
  for (const auto& [at, change] : changes) {
    now += change;
    peak = std::max(peak, now);
  }
  return peak;
}

// Counts by whole seconds of the run.
class Seconds {
 public:
  void Add(double from, double to) {
    const auto last = static_cast<size_t>(to);
    if (counts_.size() <= last) {
      counts_.resize(last + 1);
    }
    for (auto second = static_cast<size_t>(from); second <= last; ++second) {
      ++counts_[second];
    }
  }
  int64_t Most() const {
    return counts_.empty() ? 0 : *std::max_element(counts_.begin(), counts_.end());
  }

 private:
  std::vector<int64_t> counts_;
};

}  // namespace

bool Goodput::Holds(const RequestRecord& record) const {
  return record.ok() && record.ttft <= ttft.value_or(record.ttft) &&
         record.tpot() <= tpot.value_or(record.tpot()) &&
         record.latency <= e2el.value_or(record.latency);
}

Goodput ParseGoodput(const std::vector<std::string>& limits) {
  Goodput goodput;
  for (const std::string& limit : limits) {
    const size_t colon = limit.find(':');
    const std::string name = limit.substr(0, colon);
    std::optional<double>* field = name == "ttft"   ? &goodput.ttft
                                   : name == "tpot" ? &goodput.tpot
                                   : name == "e2el" ? &goodput.e2el
                                                    : nullptr;
    double milliseconds = 0;
    const char* end = limit.data() + limit.size();
    const bool valid = field != nullptr && colon != std::string::npos &&
                       std::from_chars(limit.data() + colon + 1, end, milliseconds).ptr == end &&
                       milliseconds > 0 && std::isfinite(milliseconds);
    Check(valid, ErrorCode::kInvalidArgument, "--goodput ", limit,
          ": expected ttft:MS, tpot:MS or e2el:MS");
    *field = milliseconds / 1e3;
  }
  return goodput;
}

ServingMetrics Measure(const std::vector<RequestRecord>& records, double duration,
                       const Goodput& goodput) {
  ServingMetrics metrics;
  metrics.duration = duration;
  std::vector<double> ttft, tpot, itl, e2el;
  Seconds requests;
  Seconds chunks;
  int64_t good = 0;
  for (const RequestRecord& record : records) {
    if (!record.ok()) {
      ++metrics.failed;
      continue;
    }
    ++metrics.completed;
    metrics.total_input_tokens += record.prompt_tokens;
    metrics.total_output_tokens += record.output_tokens;
    ttft.push_back(record.ttft);
    if (record.output_tokens > 1) {
      tpot.push_back(record.tpot());
    }
    itl.insert(itl.end(), record.itl.begin(), record.itl.end());
    e2el.push_back(record.latency);
    good += goodput.Holds(record) ? 1 : 0;
    requests.Add(record.start, record.start + record.latency);
    double at = record.start + record.ttft;
    chunks.Add(at, at);
    for (const double gap : record.itl) {
      at += gap;
      chunks.Add(at, at);
    }
    for (int i = 0; i < kNumPrecisionClasses; ++i) {
      metrics.tokens_by_precision[i] += record.tokens_by_precision[i];
    }
  }
  if (duration > 0) {
    metrics.request_throughput = static_cast<double>(metrics.completed) / duration;
    metrics.output_throughput = static_cast<double>(metrics.total_output_tokens) / duration;
    metrics.total_token_throughput =
        static_cast<double>(metrics.total_input_tokens + metrics.total_output_tokens) / duration;
    if (goodput.any() && !records.empty()) {
      metrics.request_goodput = static_cast<double>(good) / duration;
      metrics.good_share = static_cast<double>(good) / static_cast<double>(records.size());
    }
  }
  metrics.peak_concurrency = PeakConcurrency(records);
  metrics.max_concurrent_requests = requests.Most();
  metrics.max_output_tokens_per_s = static_cast<double>(chunks.Most());
  metrics.ttft = Summarize(std::move(ttft));
  metrics.tpot = Summarize(std::move(tpot));
  metrics.itl = Summarize(std::move(itl));
  metrics.e2el = Summarize(std::move(e2el));
  return metrics;
}

}  // namespace dualfp
