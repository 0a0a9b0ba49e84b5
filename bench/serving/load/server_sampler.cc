#include "bench/serving/load/server_sampler.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

// One line of the text format: name{labels} value.
struct MetricLine {
  std::string_view name;
  std::string_view labels;
  double value = 0;
};

std::optional<MetricLine> ParseLine(std::string_view line) {
  MetricLine metric;
  metric.name = line.substr(0, line.find_first_of("{ "));
  std::string_view rest = line.substr(metric.name.size());
  if (!rest.empty() && rest.front() == '{') {
    // A label's value may hold a brace; the last one closes.
    const size_t end = rest.rfind('}');
    if (end == std::string_view::npos) {
      return std::nullopt;
    }
    metric.labels = rest.substr(1, end - 1);
    rest.remove_prefix(end + 1);
  }
  rest.remove_prefix(std::min(rest.size(), rest.find_first_not_of(' ')));
  const auto [stop, error] = std::from_chars(rest.data(), rest.data() + rest.size(), metric.value);
  return error == std::errc() ? std::optional(metric) : std::nullopt;
}

}  // namespace

std::optional<ServerSample> ParseServerMetrics(std::string_view text, double at) {
  ServerSample sample;
  sample.at = at;
  bool found = false;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const size_t colon = line.find(':');
    const std::string_view owner = line.substr(0, colon);
    if (colon == std::string_view::npos || (owner != "dualfp" && owner != "vllm")) {
      continue;
    }
    const auto metric = ParseLine(line.substr(colon + 1));
    if (!metric || !std::isfinite(metric->value)) {
      continue;
    }
    if (metric->name == "num_requests_running") {
      sample.running += metric->value;
      found = true;
    } else if (metric->name == "num_requests_waiting") {
      sample.waiting += metric->value;
    } else if (metric->name == "kv_cache_usage_perc") {
      sample.kv_usage = metric->value;
    } else if (metric->name == "precision_mode") {
      sample.fp8_layers = metric->value;
    } else if (metric->name == "precision_tokens_total") {
      for (int i = 0; i < kNumPrecisionClasses; ++i) {
        const std::string label =
            StrCat("precision=\"", PrecisionClassName(static_cast<PrecisionClass>(i)), "\"");
        if (metric->labels.find(label) != std::string_view::npos) {
          sample.tokens[i] += static_cast<int64_t>(metric->value);
        }
      }
    }
  }
  return found ? std::optional(sample) : std::nullopt;
}

}  // namespace dualfp
