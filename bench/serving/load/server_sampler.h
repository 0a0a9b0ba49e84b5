// The server's own account of a run: /metrics, read every so often.

#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "dualfp/engine/request.h"

namespace dualfp {

struct ServerSample {
  double at = 0;  // seconds from the beginning of the run
  double running = 0;
  double waiting = 0;
  double kv_usage = 0;  // 0 ... 1

  // Of dualfp servers: the fraction of layers that computed in FP8 in the last step, and the rows
  // computed at each precision since the server began.
  std::optional<double> fp8_layers;
  TokensByPrecision tokens{};
};

// Reads Prometheus text as dualfp and vLLM write it; nothing where it has none of their gauges.
std::optional<ServerSample> ParseServerMetrics(std::string_view text, double at);

}  // namespace dualfp
