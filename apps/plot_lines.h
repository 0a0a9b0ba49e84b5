// Line charts as SVG, drawn without a library like the bars of plot_svg.h.

#pragma once

#include <string>
#include <utility>
#include <vector>

namespace dualfp {

struct Line {
  std::string name;  // in the legend
  std::string colour;
  bool dashed = false;
  bool markers = true;
  std::vector<std::pair<double, double>> points;  // by x
};

struct LineChart {
  std::string title;
  std::string x_axis;
  std::string y_axis;  // with its unit
  bool log_y = true;   // else from zero, or from `least`
  double least = 0;
  double mark = 0;  // a thick grid line here, where not 0
  std::vector<Line> lines;
};

// Charts side by side; x is logarithmic in base 2. Points that are not positive are left out.
std::string DrawLineCharts(const std::vector<LineChart>& charts);

// The nth of eight colours that colour-blind people tell apart.
std::string LineColour(size_t n);

}  // namespace dualfp
