// Means and quantiles with bootstrap confidence intervals, for measurements that come in groups.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dualfp {

// A value and its 95 % confidence interval.
struct Estimate {
  double value = 0;
  double low = 0;
  double high = 0;
};

double Mean(std::span<const double> values);

// The smallest value that a share `q` of the values does not exceed (the inverse of the empirical
// distribution; numpy's method "inverted_cdf"). 0 < q <= 1; `values` must not be empty.
double Quantile(std::vector<double> values, double q);

// Neighbouring tokens are not independent, so the intervals come from resampling whole groups (a
// window's tokens) with replacement: Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
// section 13.3 (percentile intervals). The same seed draws the same resamples for every estimate.
class GroupBootstrap {
 public:
  static constexpr int kDefaultResamples = 1000;

  // group_sizes: how many consecutive values belong to each group. One group at least, none empty;
  // else kInvalidArgument.
  GroupBootstrap(std::vector<int64_t> group_sizes, uint64_t seed,
                 int resamples = kDefaultResamples);

  // `values` lists the groups' values one after the other; kInvalidArgument for another number.
  Estimate MeanOf(std::span<const double> values) const;
  Estimate QuantileOf(std::span<const double> values, double q) const;

  int64_t num_groups() const { return static_cast<int64_t>(group_sizes_.size()); }

 private:
  void CheckCount(std::span<const double> values) const;

  std::vector<int64_t> group_sizes_;
  int64_t num_values_ = 0;
  // How often each resample drew each group: [resamples][groups].
  std::vector<std::vector<int32_t>> draws_;
};

}  // namespace dualfp
