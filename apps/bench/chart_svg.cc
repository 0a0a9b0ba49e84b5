#include "apps/bench/chart_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace dualfp {

const std::string_view kChartStyle = R"(
:root { --page: #f4f5f8; --card: #ffffff; --ink: #171a26; --muted: #666d80; --line: #e3e6ee;
  --fp16: #4c6fff; --fp8: #e08a00; --mixed: #a67fd0; --second: #12a5a0; --bad: #d23c4a; }
@media (prefers-color-scheme: dark) { :root { --page: #0e1119; --card: #171b27; --ink: #e9ebf3;
  --muted: #8f97ad; --line: #262c3c; --fp16: #7b93ff; --fp8: #ffb347; --mixed: #c3a3ea;
  --second: #35d0c8; --bad: #ff6b78; } }
.chart { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; fill: var(--muted); }
.chart .title { font-size: 12.5px; font-weight: 600; fill: var(--ink); }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .limit { stroke: var(--bad); stroke-width: 1; stroke-dasharray: 4 3; }
.chart .limit-text { fill: var(--bad); }
.chart .stroke { fill: none; stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round; }
)";

namespace {

constexpr double kLeft = 52;
constexpr double kRight = 14;
constexpr double kTitle = 34;   // above each panel, with the legend
constexpr double kBottom = 40;  // the axis and its title

// What of a layer is drawn as a line.
bool Stroked(LayerKind kind) { return kind == LayerKind::kLine || kind == LayerKind::kArea; }

// 1, 2 or 5 times a power of ten; at most `steps` of them make `range`.
double TickStep(double range, int steps) {
  const double raw = range / steps;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw * (1 - 1e-9)) {
      return factor * power;
    }
  }
  return 10 * power;
}

std::string TickLabel(double value) {
  return value >= 10000 ? fmt::format("{:.4g} k", value / 1000) : fmt::format("{:.4g}", value);
}

// One panel's frame and scales.
class Drawing {
 public:
  Drawing(const ChartPanel& panel, const ChartLayout& layout, double y, std::string* svg)
      : panel_(panel), layout_(layout), y_(y), svg_(*svg) {
    std::vector<double> stack;
    double largest = panel.limit.value_or(0) * 1.1;
    for (const ChartLayer& layer : panel.layers) {
      stack.resize(std::max(stack.size(), layer.points.size()));
      for (size_t i = 0; i < layer.points.size(); ++i) {
        double value = layer.points[i].y;
        if (layer.kind == LayerKind::kStack) {
          value = stack[i] += value;
        }
        largest = std::isfinite(value) ? std::max(largest, value) : largest;
      }
    }
    largest = largest > 0 ? largest : 1;
    step_ = TickStep(panel.top.value_or(largest), 4);
    top_ = panel.top.value_or(std::ceil(largest / step_ * (1 - 1e-9)) * step_);
  }

  void Draw() {
    Head();
    Grid();
    std::vector<double> floor;
    for (const ChartLayer& layer : panel_.layers) {
      switch (layer.kind) {
        case LayerKind::kStack:
          Stack(layer, &floor);
          break;
        case LayerKind::kPoints:
          Points(layer);
          break;
        case LayerKind::kArea:
          Area(layer);
          [[fallthrough]];
        case LayerKind::kLine:
          Line(layer);
      }
    }
    if (panel_.limit) {
      Add("<line class=\"limit\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
          kLeft, right(), Y(*panel_.limit), Y(*panel_.limit));
      Add("<text class=\"limit-text\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">goal {:.4g} "
          "{}</text>\n",
          right() - 4, Y(*panel_.limit) - 4, *panel_.limit, EscapeMarkup(panel_.unit));
    }
  }

 private:
  template <typename... Values>
  void Add(fmt::format_string<Values...> format, Values&&... values) {
    fmt::format_to(std::back_inserter(svg_), format, std::forward<Values>(values)...);
  }

  double right() const { return layout_.width - kRight; }
  double bottom() const { return y_ + kTitle + layout_.panel_height; }
  double X(double x) const {
    return kLeft + (right() - kLeft) * std::clamp(x / layout_.x_end, 0.0, 1.0);
  }
  double Y(double y) const {
    return bottom() - layout_.panel_height * std::clamp(y / top_, 0.0, 1.0);
  }

  void Head() {
    Add("<text class=\"title\" x=\"{}\" y=\"{:.0f}\">{}<tspan font-weight=\"400\" "
        "fill=\"var(--muted)\">{}</tspan></text>\n",
        2, y_ + 18, EscapeMarkup(panel_.title),
        panel_.unit.empty() ? "" : ", " + EscapeMarkup(panel_.unit));
    // One text, so that no width has to be guessed.
    std::string legend;
    for (const ChartLayer& layer : panel_.layers) {
      if (!layer.name.empty()) {
        fmt::format_to(std::back_inserter(legend),
                       "<tspan dx=\"{}\" fill=\"var(--{})\">{}</tspan><tspan dx=\"5\">{}</tspan>",
                       legend.empty() ? 0 : 14, layer.colour,
                       Stroked(layer.kind) ? "\u2501" : "\u25a0", EscapeMarkup(layer.name));
      }
    }
    Add("<text x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"end\">{}</text>\n", right(), y_ + 18,
        legend);
  }

  void Grid() {
    for (int tick = 0; tick * step_ <= top_ * (1 + 1e-9); ++tick) {
      const double y = Y(tick * step_);
      Add("<line class=\"grid\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kLeft,
          right(), y, y);
      Add("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kLeft - 7, y + 4,
          TickLabel(tick * step_));
    }
  }

  void Line(const ChartLayer& layer) {
    std::string path;
    bool open = false;
    for (const ChartPoint& point : layer.points) {
      if (std::isfinite(point.y)) {
        fmt::format_to(std::back_inserter(path), "{}{:.1f} {:.1f}", open ? "L" : "M", X(point.x),
                       Y(point.y));
      }
      open = std::isfinite(point.y);
    }
    Add("<path class=\"stroke\" stroke=\"var(--{})\" d=\"{}\"/>\n", layer.colour, path);
  }

  void Area(const ChartLayer& layer) {
    if (layer.points.empty()) {
      return;
    }
    std::string path = fmt::format("M{:.1f} {:.1f}", X(layer.points.front().x), bottom());
    for (const ChartPoint& point : layer.points) {
      fmt::format_to(std::back_inserter(path), "L{:.1f} {:.1f}", X(point.x),
                     Y(std::isfinite(point.y) ? point.y : 0));
    }
    Add("<path fill=\"var(--{})\" opacity=\"0.16\" d=\"{}L{:.1f} {:.1f}Z\"/>\n", layer.colour, path,
        X(layer.points.back().x), bottom());
  }

  void Stack(const ChartLayer& layer, std::vector<double>* floor) {
    if (layer.points.empty()) {
      return;
    }
    floor->resize(layer.points.size());
    std::string above;
    std::string below;
    for (size_t i = 0; i < layer.points.size(); ++i) {
      const double x = X(layer.points[i].x);
      below.insert(0, fmt::format("L{:.1f} {:.1f}", x, Y((*floor)[i])));
      (*floor)[i] += layer.points[i].y;
      fmt::format_to(std::back_inserter(above), "{}{:.1f} {:.1f}", i == 0 ? "M" : "L", x,
                     Y((*floor)[i]));
    }
    Add("<path fill=\"var(--{})\" opacity=\"0.85\" d=\"{}{}Z\"/>\n", layer.colour, above, below);
  }

  // One path of round dots: lighter than an element for each.
  void Points(const ChartLayer& layer) {
    std::string path;
    for (const ChartPoint& point : layer.points) {
      fmt::format_to(std::back_inserter(path), "M{:.1f} {:.1f}h0", X(point.x), Y(point.y));
    }
    Add("<path stroke=\"var(--{})\" stroke-width=\"3.6\" stroke-linecap=\"round\" opacity=\"0.4\" "
        "d=\"{}\"/>\n",
        layer.colour, path);
  }

  const ChartPanel& panel_;
  const ChartLayout& layout_;
  double y_;
  std::string& svg_;
  double step_ = 1;
  double top_ = 1;
};

}  // namespace

std::string EscapeMarkup(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string DrawPanels(const std::vector<ChartPanel>& panels, const ChartLayout& layout) {
  const double each = kTitle + layout.panel_height;
  const double height = each * static_cast<double>(panels.size()) + kBottom;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {} {:.0f}\" "
      "role=\"img\">\n",
      layout.width, height);
  const double right = layout.width - kRight;
  const double step = TickStep(layout.x_end, layout.width / 90);
  for (int tick = 0; tick * step <= layout.x_end * (1 + 1e-9); ++tick) {
    const double x = kLeft + (right - kLeft) * tick * step / layout.x_end;
    for (size_t i = 0; i < panels.size(); ++i) {
      const double y = each * static_cast<double>(i) + kTitle;
      fmt::format_to(std::back_inserter(svg),
                     "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" "
                     "y2=\"{2:.1f}\"/>\n",
                     x, y, y + layout.panel_height);
    }
    fmt::format_to(std::back_inserter(svg),
                   "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", x,
                   height - kBottom + 15, TickLabel(tick * step));
  }
  for (size_t i = 0; i < panels.size(); ++i) {
    Drawing(panels[i], layout, each * static_cast<double>(i), &svg).Draw();
  }
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n</svg>\n",
                     (kLeft + right) / 2, height - 8, EscapeMarkup(layout.x_title));
  return svg;
}

}  // namespace dualfp
