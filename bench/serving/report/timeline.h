// A run as charts: what happened when, and how the latencies are distributed.

#pragma once

#include <vector>

#include "bench/charts/panels.h"
#include "bench/serving/load/load_test.h"

namespace dualfp {

// Load, precision and latency over the run's seconds. Panels for which there is no data (a server
// without precisions) are left out.
std::vector<ChartPanel> Timeline(const LoadResult& load, const Goodput& goodput);

// Cumulative share of a sample, and where its axis should end (a little past the 99th percentile).
struct Distribution {
  ChartPanel panel;
  double x_end = 1;  // ms
};

// `seconds` must not be empty.
Distribution DrawDistribution(const std::string& title, std::vector<double> seconds);

}  // namespace dualfp
