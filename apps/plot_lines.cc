#include "apps/plot_lines.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "apps/plot_svg.h"

namespace dualfp {
namespace {

constexpr double kPlotWidth = 380;
constexpr double kPlotHeight = 260;
constexpr double kLeft = 62;
constexpr double kRight = 18;
constexpr double kTop = 40;
constexpr double kAxisHeight = 44;
constexpr double kLegendRow = 18;
constexpr int kLegendColumns = 2;
// Okabe and Ito's palette, without the yellow that white paper swallows.
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                    "#56b4e9", "#e69f00", "#000000", "#8c6d31"};

struct Range {
  double low = 1e300;
  double high = -1e300;

  void Add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

// One chart's coordinates.
class Axes {
 public:
  Axes(const LineChart& chart, double left) : chart_(chart), left_(left) {
    for (const Line& line : chart.lines) {
      for (const auto& [x, y] : line.points) {
        if (x > 0 && y > 0) {
          x_.Add(std::log2(x));
          y_.Add(chart.log_y ? std::log10(y) : y);
        }
      }
    }
    if (x_.low > x_.high) {
      x_ = {0, 1};
      y_ = {0, 1};
    }
    if (chart.mark > 0) {
      y_.Add(chart.log_y ? std::log10(chart.mark) : chart.mark);
    }
    if (chart.log_y) {
      y_.low -= 0.05;
      y_.high += 0.08;
    } else {
      y_.low = std::min(chart.least, y_.low);
      y_.high += 0.05 * (y_.high - y_.low);
    }
    if (x_.high == x_.low) {
      x_.low -= 0.5;
      x_.high += 0.5;
    }
  }

  double X(double x) const {
    return left_ + kPlotWidth * (std::log2(x) - x_.low) / (x_.high - x_.low);
  }
  double Y(double y) const {
    const double value = chart_.log_y ? std::log10(y) : y;
    return kTop + kPlotHeight * (y_.high - value) / (y_.high - y_.low);
  }

  std::vector<double> XTicks() const {
    std::vector<double> ticks;
    const int step = x_.high - x_.low > 7 ? 2 : 1;
    for (int power = static_cast<int>(std::ceil(x_.low - 1e-9)); power <= x_.high + 1e-9;
         power += step) {
      ticks.push_back(std::exp2(power));
    }
    return ticks;
  }

  std::vector<double> YTicks() const {
    std::vector<double> ticks;
    if (!chart_.log_y) {
      const double step = TickStep(y_.high - y_.low);
      const auto last = static_cast<int>(std::floor(y_.high / step));
      for (int i = static_cast<int>(std::ceil(y_.low / step)); i <= last; ++i) {
        ticks.push_back(i * step);
      }
      return ticks;
    }
    for (int power = static_cast<int>(std::floor(y_.low)); power <= y_.high; ++power) {
      for (const double digit : {1.0, 2.0, 5.0}) {
        const double tick = digit * std::pow(10.0, power);
        if (std::log10(tick) >= y_.low && std::log10(tick) <= y_.high) {
          ticks.push_back(tick);
        }
      }
    }
    return ticks;
  }

 private:
  const LineChart& chart_;
  double left_;
  Range x_;
  Range y_;
};

std::string DrawGrid(const LineChart& chart, const Axes& axes, double left) {
  const double bottom = kTop + kPlotHeight;
  const double right = left + kPlotWidth;
  std::string svg = fmt::format("<text x=\"{}\" y=\"24\" font-size=\"14\">{}</text>\n", left,
                                EscapeXml(chart.title));
  for (const double tick : axes.XTicks()) {
    svg += fmt::format(
        "<line x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\" stroke=\"#ddd\"/>\n"
        "<text x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4}</text>\n",
        axes.X(tick), kTop, bottom, bottom + 16, tick);
  }
  for (const double tick : axes.YTicks()) {
    svg += fmt::format(
        "<line x1=\"{0}\" y1=\"{1:.1f}\" x2=\"{2}\" y2=\"{1:.1f}\" stroke=\"#ddd\"/>\n"
        "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:.4g}</text>\n",
        left, axes.Y(tick), right, left - 6, axes.Y(tick) + 4, tick);
  }
  if (chart.mark > 0) {
    svg += fmt::format(
        "<line x1=\"{0}\" y1=\"{1:.1f}\" x2=\"{2}\" y2=\"{1:.1f}\" stroke=\"#999\" "
        "stroke-width=\"2\"/>\n",
        left, axes.Y(chart.mark), right);
  }
  return svg + fmt::format(
                   "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n"
                   "<text transform=\"translate({},{}) rotate(-90)\" "
                   "text-anchor=\"middle\">{}</text>\n",
                   left + kPlotWidth / 2, bottom + 36, EscapeXml(chart.x_axis), left - 46,
                   kTop + kPlotHeight / 2, EscapeXml(chart.y_axis));
}

std::string DrawLine(const Line& line, const Axes& axes) {
  std::string path;
  std::string markers;
  for (const auto& [x, y] : line.points) {
    if (!(x > 0 && y > 0)) {
      continue;
    }
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", axes.X(x), axes.Y(y));
    if (line.markers) {
      markers += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" fill=\"{}\"/>\n",
                             axes.X(x), axes.Y(y), line.colour);
    }
  }
  if (path.empty()) {
    return "";
  }
  return fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\"{}/>\n{}",
                     path, line.colour, line.dashed ? " stroke-dasharray=\"5 4\"" : "", markers);
}

std::string DrawLegend(const LineChart& chart, double left) {
  std::string svg;
  for (size_t i = 0; i < chart.lines.size(); ++i) {
    const Line& line = chart.lines[i];
    const double x = left + static_cast<double>(i % kLegendColumns) * kPlotWidth / kLegendColumns;
    const size_t row = i / kLegendColumns;
    const double y = kTop + kPlotHeight + kAxisHeight + kLegendRow * static_cast<double>(row) + 6;
    svg += fmt::format(
        "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{}\" stroke-width=\"2.5\"{}/>\n"
        "<text x=\"{}\" y=\"{}\">{}</text>\n",
        x, y, x + 22, y, line.colour, line.dashed ? " stroke-dasharray=\"5 4\"" : "", x + 28, y + 4,
        EscapeXml(line.name));
  }
  return svg;
}

}  // namespace

std::string LineColour(size_t n) { return kColours[n % std::size(kColours)]; }

std::string DrawLineCharts(const std::vector<LineChart>& charts) {
  size_t rows = 0;
  for (const LineChart& chart : charts) {
    rows = std::max(rows, (chart.lines.size() + kLegendColumns - 1) / kLegendColumns);
  }
  const double one = kLeft + kPlotWidth + kRight;
  const double width = one * static_cast<double>(charts.size());
  const double height =
      kTop + kPlotHeight + kAxisHeight + kLegendRow * static_cast<double>(rows) + 8;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#333\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>\n",
      width, height);
  for (size_t i = 0; i < charts.size(); ++i) {
    const double left = one * static_cast<double>(i) + kLeft;
    const Axes axes(charts[i], left);
    svg += DrawGrid(charts[i], axes, left);
    for (const Line& line : charts[i].lines) {
      svg += DrawLine(line, axes);
    }
    svg += DrawLegend(charts[i], left);
  }
  return svg + "</svg>\n";
}

}  // namespace dualfp
