// Mean and percentiles of a sample.

#pragma once

#include <cstdint>
#include <vector>

namespace dualfp {

// The q-quantile, 0 <= q <= 1, with linear interpolation between the two nearest values
// (numpy.percentile's default). `values` is reordered. NaN when empty.
double Quantile(std::vector<double>& values, double q);

struct Summary {
  int64_t count = 0;
  // NaN when empty.
  double mean = 0;
  double deviation = 0;  // of the population
  double median = 0;
  double p90 = 0;
  double p99 = 0;
};

Summary Summarize(std::vector<double> values);

}  // namespace dualfp
