// GET /metrics: Prometheus' text format 0.0.4.

#pragma once

#include <string>
#include <string_view>

#include "dualfp/engine/metrics.h"

namespace dualfp {

// What the HTTP side counts.
struct HttpMetrics {
  Gauge connections;
  Counter connections_refused_total;  // no place, and none could be made
  Counter connections_evicted_total;  // closed while idle, to make place
  Counter uploads_evicted_total;      // closed while being read, to make room for others
  Counter slow_readers_total;         // cancelled: max_stream_backlog_bytes
  Counter responses_total[6];         // by hundreds of the status; [0]: the client left before
};

constexpr std::string_view kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

// Throws kInvalidArgument for what cannot begin a metric's name.
void CheckMetricsPrefix(std::string_view prefix);

// `prefix`: before the colon of all but the process_* metrics. `engine` may be null, while the
// model is being loaded.
std::string RenderMetrics(std::string_view prefix, const EngineMetrics* engine,
                          std::string_view model_name, const HttpMetrics& http);

}  // namespace dualfp
