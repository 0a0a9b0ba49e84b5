#include "bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dualfp {

double InterpolatedQuantile(std::vector<double>& values, double q) {
  if (values.empty()) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  const double position = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::ptrdiff_t>(position);
  const auto at = values.begin() + below;
  std::nth_element(values.begin(), at, values.end());
  if (at + 1 == values.end()) {
    return *at;
  }
  const double next = *std::min_element(at + 1, values.end());
  return *at + (position - static_cast<double>(below)) * (next - *at);
}

double Median(std::vector<double> values) { return InterpolatedQuantile(values, 0.5); }

Summary Summarize(std::vector<double> values) {
  Summary summary;
  summary.count = static_cast<int64_t>(values.size());
  const auto count = static_cast<double>(values.size());
  double sum = 0;
  for (const double value : values) {
    sum += value;
  }
  summary.mean = sum / count;  // 0 / 0 is the NaN that the header promises
  double squares = 0;
  for (const double value : values) {
    squares += (value - summary.mean) * (value - summary.mean);
  }
  summary.deviation = std::sqrt(squares / count);
  summary.median = InterpolatedQuantile(values, 0.5);
  summary.p90 = InterpolatedQuantile(values, 0.9);
  summary.p99 = InterpolatedQuantile(values, 0.99);
  return summary;
}

}  // namespace dualfp
