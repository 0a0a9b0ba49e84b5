// Charts over a common axis, one below the other or side by side.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/charts/scale.h"
#include "bench/charts/svg.h"

namespace dualfp {

struct ChartPoint {
  double x = 0;
  double y = 0;  // NaN: a gap in a line
};

enum class LayerKind : uint8_t {
  kLine,
  kMarkedLine,  // with its points
  kDashedLine,
  kArea,   // a line, and what is below it
  kStack,  // an area upon the stacks before it, which have the same x
  kPoints,
};

// What a logarithmic axis cannot show of its points is left out.
struct ChartLayer {
  std::string name;  // for the legend; empty: not there
  Colour colour = Colour::kInk;
  LayerKind kind = LayerKind::kLine;
  std::vector<ChartPoint> points;
};

// A line across a panel, which the axis reaches.
struct ChartMark {
  double value = 0;
  std::string label;  // at its right end, with the panel's unit; empty: none
};

struct ChartPanel {
  std::string title;
  ChartAxis y;  // its title, which is its unit, follows the panel's
  std::vector<ChartLayer> layers;
  std::optional<ChartMark> mark;
};

struct ChartLayout {
  ChartAxis x;
  double width = 960;         // of all columns
  double panel_height = 112;  // without title, legend and axis
  size_t columns = 1;
};

Svg DrawPanels(const std::vector<ChartPanel>& panels, const ChartLayout& layout);

}  // namespace dualfp
