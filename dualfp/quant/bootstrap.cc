#include "dualfp/quant/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

constexpr double kTail = 0.025;  // outside a 95 % interval, at each end

// The rank, from 1, of the quantile among `count` values. 0.07 of 100 is 7 although the product of
// the doubles is a little more.
int64_t QuantileRank(double q, int64_t count) {
  const auto rank = static_cast<int64_t>(std::ceil(q * static_cast<double>(count) - 1e-9));
  return std::clamp<int64_t>(rank, 1, count);
}

Estimate WithInterval(double value, std::vector<double> replicates) {
  std::sort(replicates.begin(), replicates.end());
  const auto count = static_cast<int64_t>(replicates.size());
  return {value, replicates[QuantileRank(kTail, count) - 1],
          replicates[QuantileRank(1 - kTail, count) - 1]};
}

}  // namespace

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double Quantile(std::vector<double> values, double q) {
  Check(!values.empty() && q > 0 && q <= 1, ErrorCode::kInvalidArgument, "quantile ", q, " of ",
        values.size(), " values");
  const auto nth = values.begin() + QuantileRank(q, static_cast<int64_t>(values.size())) - 1;
  std::nth_element(values.begin(), nth, values.end());
  return *nth;
}

GroupBootstrap::GroupBootstrap(std::vector<int64_t> group_sizes, uint64_t seed, int resamples)
    : group_sizes_(std::move(group_sizes)) {
  const bool sized =
      std::all_of(group_sizes_.begin(), group_sizes_.end(), [](int64_t size) { return size > 0; });
  Check(!group_sizes_.empty() && sized && resamples > 0, ErrorCode::kInvalidArgument,
        "a bootstrap needs resamples, groups, and values in each group");
  num_values_ = std::accumulate(group_sizes_.begin(), group_sizes_.end(), int64_t{0});
  // The standard fixes the engine's numbers but not its distributions'; a remainder of 64 bits is
  // near enough to uniform and the same everywhere.
  std::mt19937_64 random(seed);
  draws_.assign(resamples, std::vector<int32_t>(group_sizes_.size(), 0));
  for (std::vector<int32_t>& draw : draws_) {
    for (size_t i = 0; i < group_sizes_.size(); ++i) {
      ++draw[random() % group_sizes_.size()];
    }
  }
}

void GroupBootstrap::CheckCount(std::span<const double> values) const {
  Check(static_cast<int64_t>(values.size()) == num_values_, ErrorCode::kInvalidArgument,
        "a bootstrap over groups of ", num_values_, " values got ", values.size());
}

Estimate GroupBootstrap::MeanOf(std::span<const double> values) const {
  CheckCount(values);
  std::vector<double> sums;
  for (size_t group = 0, begin = 0; group < group_sizes_.size(); ++group) {
    const auto part = values.subspan(begin, group_sizes_[group]);
    sums.push_back(std::accumulate(part.begin(), part.end(), 0.0));
    begin += part.size();
  }
  std::vector<double> means;
  for (const std::vector<int32_t>& draw : draws_) {
    double sum = 0;
    int64_t count = 0;
    for (size_t group = 0; group < sums.size(); ++group) {
      sum += draw[group] * sums[group];
      count += draw[group] * group_sizes_[group];
    }
    means.push_back(sum / static_cast<double>(count));
  }
  return WithInterval(Mean(values), std::move(means));
}

Estimate GroupBootstrap::QuantileOf(std::span<const double> values, double q) const {
  CheckCount(values);
  // Each resample walks the one sorted list from the largest down, counting a value as often as its
  // group was drawn.
  struct Item {
    double value;
    int32_t group;
  };
  std::vector<Item> items;
  items.reserve(values.size());
  for (size_t group = 0; group < group_sizes_.size(); ++group) {
    for (int64_t i = 0; i < group_sizes_[group]; ++i) {
      items.push_back({values[items.size()], static_cast<int32_t>(group)});
    }
  }
  std::sort(items.begin(), items.end(),
            [](const Item& a, const Item& b) { return a.value > b.value; });
  std::vector<double> replicates;
  for (const std::vector<int32_t>& draw : draws_) {
    int64_t count = 0;
    for (size_t group = 0; group < group_sizes_.size(); ++group) {
      count += draw[group] * group_sizes_[group];
    }
    // Rank r from below is rank count - r + 1 from above.
    int64_t left = count - QuantileRank(q, count) + 1;
    size_t i = 0;
    while ((left -= draw[items[i].group]) > 0) {
      ++i;
    }
    replicates.push_back(items[i].value);
  }
  return WithInterval(Quantile({values.begin(), values.end()}, q), std::move(replicates));
}

}  // namespace dualfp
