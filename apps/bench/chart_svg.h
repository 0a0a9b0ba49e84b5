// Charts over a common axis, one below the other, as SVG without a library.
//
// Colours are CSS variables (kChartStyle defines them for light and dark), so that a page and the
// drawings in it change together.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dualfp {

struct ChartPoint {
  double x = 0;
  double y = 0;  // NaN: a gap in a line
};

enum class LayerKind : uint8_t {
  kLine,
  kArea,   // a line, and what is below it
  kStack,  // an area upon the stacks before it, which have the same x
  kPoints,
};

struct ChartLayer {
  std::string name;    // for the legend; empty: not there
  std::string colour;  // "fp16", "fp8", "mixed", "second", "ink", "muted"
  LayerKind kind = LayerKind::kLine;
  std::vector<ChartPoint> points;
};

struct ChartPanel {
  std::string title;
  std::string unit;
  std::vector<ChartLayer> layers;
  std::optional<double> limit;  // a dashed line, which the axis then reaches
  std::optional<double> top;    // the axis ends here; else at the largest value
};

struct ChartLayout {
  int width = 960;
  int panel_height = 112;
  std::string x_title;
  double x_end = 1;  // from 0
};

std::string DrawPanels(const std::vector<ChartPanel>& panels, const ChartLayout& layout);

// The variables and the looks of what DrawPanels() draws.
extern const std::string_view kChartStyle;

// For text and attributes of HTML and SVG.
std::string EscapeMarkup(std::string_view text);

}  // namespace dualfp
