// A geometric mean with its smallest value.

#pragma once

#include <algorithm>
#include <cmath>

namespace dualfp {

class Statistics {
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
