#include "bench/charts/scale.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace dualfp {
namespace {

// What rounding may have added to, or taken from, a whole number of steps.
constexpr double kSlack = 1e-9;
// Nothing below it: neither on a logarithmic scale nor as a linear one's length.
constexpr double kTiny = 1e-100;

}  // namespace

double RoundStep(double least) {
  const double power = std::pow(10.0, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= least * (1 - kSlack)) {
      return factor * power;
    }
  }
  return 10 * power;
}

ChartScale::ChartScale(const ChartAxis& axis, const std::vector<double>& values, int most_ticks)
    : kind_(axis.kind) {
  double smallest = INFINITY;
  double largest = -INFINITY;
  for (const double value : values) {
    if (Shows(value)) {
      smallest = std::min(smallest, value);
      largest = std::max(largest, value);
    }
  }
  if (smallest > largest) {
    smallest = largest = 1;
  }
  switch (kind_) {
    case ScaleKind::kLinear:
      PlaceLinear(axis, smallest, largest, most_ticks);
      break;
    case ScaleKind::kLog2:
      PlaceLog2(smallest, largest, most_ticks);
      break;
    case ScaleKind::kLog10:
      PlaceLog10(smallest, largest, most_ticks);
  }
}

bool ChartScale::Shows(double value) const {
  return std::isfinite(value) && (kind_ == ScaleKind::kLinear || value > kTiny);
}

double ChartScale::Transform(double value) const {
  switch (kind_) {
    case ScaleKind::kLog2:
      return std::log2(value);
    case ScaleKind::kLog10:
      return std::log10(value);
    case ScaleKind::kLinear:
      break;
  }
  return value;
}

double ChartScale::Share(double value) const {
  const double share = (Transform(value) - low_) / (high_ - low_);
  return share > 0 ? std::min(share, 1.0) : 0;
}

void ChartScale::PlaceLinear(const ChartAxis& axis, double smallest, double largest,
                             int most_ticks) {
  low_ = std::min(axis.from, smallest);
  high_ = axis.to.value_or(largest);
  if (high_ - low_ < kTiny) {
    high_ = low_ + 1;
  }
  const double step = RoundStep((high_ - low_) / most_ticks);
  if (low_ < axis.from) {
    low_ = std::floor(low_ / step + kSlack) * step;
  }
  if (!axis.to) {
    high_ = std::ceil(high_ / step - kSlack) * step;
  }
  const double first = std::ceil(low_ / step - kSlack);
  for (int i = 0; i < most_ticks + 3 && (first + i) * step <= high_ + kSlack * step; ++i) {
    ticks_.push_back((first + i) * step);
  }
}

void ChartScale::PlaceLog2(double smallest, double largest, int most_ticks) {
  low_ = std::floor(std::log2(smallest) + kSlack);
  high_ = std::ceil(std::log2(largest) - kSlack);
  if (high_ <= low_) {
    --low_;
    high_ = low_ + 2;
  }
  const int step = static_cast<int>(std::ceil((high_ - low_) / most_ticks));
  for (int power = static_cast<int>(low_); power <= high_; power += step) {
    ticks_.push_back(std::exp2(power));
  }
}

void ChartScale::PlaceLog10(double smallest, double largest, int most_ticks) {
  // Ends are 1, 2 or 5 times a power of ten.
  const double end = RoundStep(largest);
  double begin = end;
  while (begin > smallest * (1 + kSlack) || begin == end) {
    // More than the steps of 2 and 2.5, less than two of them: the next lower of 1, 2, 5.
    begin = RoundStep(begin / 2.6);
  }
  low_ = std::log10(begin);
  high_ = std::log10(end);
  ticks_.push_back(begin);
  while (ticks_.back() < end * (1 - kSlack)) {
    ticks_.push_back(RoundStep(ticks_.back() * 1.5));
  }
  if (ticks_.size() > static_cast<size_t>(most_ticks)) {
    // Powers of ten alone, and not all of them if they are still too many.
    const int step = static_cast<int>(std::ceil((high_ - low_) / most_ticks));
    ticks_.clear();
    for (int power = static_cast<int>(std::ceil(low_ - kSlack)); power <= high_ + kSlack;
         power += step) {
      ticks_.push_back(std::pow(10.0, power));
    }
  }
}

std::string ChartScale::Label(double tick) const {
  if (kind_ == ScaleKind::kLog2) {
    return fmt::format("{:.10g}", tick);
  }
  const double size = std::abs(tick);
  return size >= 1e7   ? fmt::format("{:.4g} M", tick / 1e6)
         : size >= 1e4 ? fmt::format("{:.4g} k", tick / 1e3)
                       : fmt::format("{:.4g}", tick);
}

}  // namespace dualfp
