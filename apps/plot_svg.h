// Bar charts as SVG, drawn without a library: text that a browser, a README and a diff can show.

#pragma once

#include <string>
#include <vector>

namespace dualfp {

// &, < and > as entities.
std::string EscapeXml(const std::string& text);

// 1, 2 or 5 times a power of ten, so that at most six of them make `largest` (> 0).
double TickStep(double largest);

struct Bar {
  std::string label;
  double value = 0;  // not negative
  double low = 0;    // ends of the confidence interval
  double high = 0;
};

struct BarChart {
  std::string title;
  std::string axis;                      // what the bars' length means, with its unit
  std::vector<std::vector<Bar>> groups;  // drawn one below the other with a gap, coloured apart
};

// Horizontal bars from zero with whiskers, and ticks at round numbers.
std::string DrawBarChart(const BarChart& chart);

}  // namespace dualfp
