// Horizontal bars with confidence intervals.

#pragma once

#include <string>
#include <vector>

#include "bench/charts/svg.h"

namespace dualfp {

struct Bar {
  std::string label;
  double value = 0;  // not negative
  double low = 0;    // ends of the confidence interval; the value itself: none is drawn
  double high = 0;
};

struct BarChart {
  std::string title;
  std::string axis;                      // what the bars' length means, with its unit
  std::vector<std::vector<Bar>> groups;  // drawn one below the other with a gap, coloured apart
};

Svg DrawBars(const BarChart& chart);

}  // namespace dualfp
