// What samples and ratios come to.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace dualfp {

// The q-quantile, 0 <= q <= 1, with linear interpolation between the two nearest values
// (numpy.percentile's default). `values` is reordered. NaN when empty.
double InterpolatedQuantile(std::vector<double>& values, double q);

// NaN when empty.
double Median(std::vector<double> values);

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

// Of ratios, with the smallest.
class GeometricMean {
 public:
  // `ratio` > 0.
  void Add(double ratio) {
    log_sum_ += std::log(ratio);
    worst_ = count_ == 0 ? ratio : std::min(worst_, ratio);
    ++count_;
  }

  int count() const { return count_; }
  double Mean() const { return count_ == 0 ? 0.0 : std::exp(log_sum_ / count_); }
  double worst() const { return worst_; }

 private:
  double log_sum_ = 0;
  double worst_ = 0;
  int count_ = 0;
};

}  // namespace dualfp
