#include "bench/charts/bars.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/charts/scale.h"

namespace dualfp {
namespace {

constexpr double kWidth = 720;
constexpr double kLongestLabel = 240;
constexpr double kEdge = 2;
constexpr double kGap = 7;  // beside bars
constexpr double kTitleLine = 18;
constexpr double kTop = 38;
constexpr double kBar = 15;
constexpr double kRow = 21;
constexpr double kGroupGap = 12;
constexpr double kBottom = 40;
constexpr double kTick = 90;

bool Measured(const Bar& bar) {
  return std::isfinite(bar.value) && std::isfinite(bar.low) && std::isfinite(bar.high);
}

std::string ValueText(const Bar& bar) {
  return Measured(bar) ? fmt::format("{:.3g}", bar.value) : "not finite";
}

}  // namespace

Svg DrawBars(const BarChart& chart) {
  double height = kTop + kBottom;
  double label_width = 0;
  double value_width = 0;
  std::vector<double> values;
  for (const std::vector<Bar>& group : chart.groups) {
    height += static_cast<double>(group.size()) * kRow + (group.empty() ? 0 : kGroupGap);
    for (const Bar& bar : group) {
      label_width = std::max(label_width, TextWidth(bar.label, Svg::kTextSize));
      value_width = std::max(value_width, TextWidth(ValueText(bar), Svg::kTextSize));
      if (Measured(bar)) {
        values.insert(values.end(), {bar.value, bar.low, bar.high});
      }
    }
  }
  const double left = kEdge + std::min(label_width, kLongestLabel) + kGap;
  const double right = kWidth - std::max(value_width + kGap, 20.0) - kEdge;
  const double bottom = height - kBottom;
  // To the longest one: nobody reads on from its end.
  ChartAxis axis;
  axis.to = values.empty() ? 0 : *std::max_element(values.begin(), values.end());
  const ChartScale scale(axis, values, static_cast<int>((right - left) / kTick));
  const auto x = [&](double value) { return left + (right - left) * scale.Share(value); };

  Svg svg(kWidth, height);
  svg.Title(kEdge, kTitleLine, chart.title, "");
  for (const double tick : scale.ticks()) {
    svg.Line(x(tick), kTop - 6, x(tick), bottom, {});
    svg.Text(x(tick), bottom + 15, scale.Label(tick), Anchor::kMiddle);
  }
  double y = kTop;
  for (size_t i = 0; i < chart.groups.size(); ++i) {
    for (const Bar& bar : chart.groups[i]) {
      const double middle = y + kBar / 2;
      svg.Text(left - kGap, middle + 4, Shorten(bar.label, Svg::kTextSize, kLongestLabel),
               Anchor::kEnd, Colour::kInk);
      double end = left;
      if (Measured(bar)) {
        svg.Bar(left, y, x(bar.value) - left, kBar, SeriesColour(i));
        if (bar.low < bar.high) {
          svg.Path(fmt::format("M{0:.1f} {2:.1f}H{1:.1f}M{0:.1f} {3:.1f}v6M{1:.1f} {3:.1f}v6",
                               x(bar.low), x(bar.high), middle, middle - 3),
                   {Colour::kInk});
        }
        end = x(std::max(bar.value, bar.high));
      }
      svg.Text(end + kGap, middle + 4, ValueText(bar), Anchor::kStart, Colour::kInk);
      y += kRow;
    }
    y += chart.groups[i].empty() ? 0 : kGroupGap;
  }
  svg.Text((left + right) / 2, bottom + 32, chart.axis, Anchor::kMiddle);
  return svg;
}

}  // namespace dualfp
