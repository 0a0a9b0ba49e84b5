#include "bench/charts/panels.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

namespace dualfp {
namespace {

constexpr double kEdge = 2;     // before titles
constexpr double kTickGap = 7;  // between an axis and its labels
constexpr double kRight = 14;
constexpr double kHeader = 38;  // above each panel, with its title
constexpr double kTitleLine = 22;
constexpr double kLegendLine = 18;
constexpr double kBottom = 40;  // the axis and its title
constexpr double kAxisLabel = 15;
constexpr double kAxisTitle = 32;
constexpr double kYTick = 28;  // the least distance of ticks, about
constexpr double kXTick = 90;
constexpr double kXTickLog = 45;
constexpr double kSymbolGap = 5;
constexpr double kEntryGap = 14;

const char* Symbol(LayerKind kind) {
  switch (kind) {
    case LayerKind::kStack:
      return "■";
    case LayerKind::kPoints:
      return "●";
    case LayerKind::kDashedLine:
      return "╍";
    default:
      return "━";
  }
}

// Of a stack, where a gap would leave the ones upon it without a floor.
double Height(double y) { return std::isfinite(y) ? y : 0; }

// Values that the panel's axis must reach.
std::vector<double> YValues(const ChartPanel& panel) {
  std::vector<double> values;
  if (panel.mark) {
    // With room for the label.
    values.push_back(panel.mark->value * 1.1);
  }
  std::vector<double> stack;
  for (const ChartLayer& layer : panel.layers) {
    stack.resize(std::max(stack.size(), layer.points.size()));
    for (size_t i = 0; i < layer.points.size(); ++i) {
      const double value = layer.points[i].y;
      values.push_back(layer.kind == LayerKind::kStack ? stack[i] += Height(value) : value);
    }
  }
  return values;
}

std::vector<double> XValues(const std::vector<ChartPanel>& panels) {
  std::vector<double> values;
  for (const ChartPanel& panel : panels) {
    for (const ChartLayer& layer : panel.layers) {
      for (const ChartPoint& point : layer.points) {
        values.push_back(point.x);
      }
    }
  }
  return values;
}

// The entries of a panel's legend, in lines that are no wider than they may be.
class Legend {
 public:
  // `beside`: the room beside the title; `below`: that of a line below it.
  Legend(const ChartPanel& panel, double beside, double below) {
    const auto width = [](const ChartLayer& layer) {
      return TextWidth(Symbol(layer.kind), Svg::kTextSize) + kSymbolGap +
             TextWidth(layer.name, Svg::kTextSize);
    };
    double all = 0;
    double filled = 0;
    for (const ChartLayer& layer : panel.layers) {
      if (layer.name.empty()) {
        continue;
      }
      all += width(layer) + kEntryGap;
      if (lines_.empty() || filled + kEntryGap + width(layer) > below) {
        lines_.emplace_back();
        filled = 0;
      }
      const double gap = lines_.back().empty() ? 0 : kEntryGap;
      lines_.back() += Svg::Span(Symbol(layer.kind), layer.colour, gap) +
                       Svg::Span(layer.name, Colour::kMuted, kSymbolGap);
      filled += gap + width(layer);
    }
    beside_ = lines_.size() == 1 && all <= beside;
  }

  // What it adds to the header.
  double Height() const { return beside_ ? 0 : kLegendLine * static_cast<double>(lines_.size()); }

  void Draw(double left, double right, double title_y, Svg* svg) const {
    if (beside_) {
      svg->Spans(right, title_y, lines_.front(), Anchor::kEnd);
      return;
    }
    double y = title_y;
    for (const std::string& line : lines_) {
      svg->Spans(left, y += kLegendLine, line, Anchor::kStart);
    }
  }

 private:
  std::vector<std::string> lines_;
  bool beside_ = false;
};

// One panel's frame and scales.
struct Frame {
  double left = 0;
  double right = 0;
  double top = 0;
  double bottom = 0;
  const ChartScale& x_scale;
  const ChartScale& y_scale;

  double X(double x) const { return left + (right - left) * x_scale.Share(x); }
  double Y(double y) const { return bottom - (bottom - top) * y_scale.Share(y); }
  bool Shows(const ChartPoint& point) const {
    return x_scale.Shows(point.x) && y_scale.Shows(point.y);
  }
};

std::string LinePath(const ChartLayer& layer, const Frame& frame) {
  std::string path;
  bool open = false;
  for (const ChartPoint& point : layer.points) {
    if (frame.Shows(point)) {
      fmt::format_to(std::back_inserter(path), "{}{:.1f} {:.1f}", open ? "L" : "M",
                     frame.X(point.x), frame.Y(point.y));
    }
    open = frame.Shows(point) || (open && std::isfinite(point.y));
  }
  return path;
}

std::string AreaPath(const ChartLayer& layer, const Frame& frame) {
  std::string path = fmt::format("M{:.1f} {:.1f}", frame.X(layer.points.front().x), frame.bottom);
  for (const ChartPoint& point : layer.points) {
    fmt::format_to(std::back_inserter(path), "L{:.1f} {:.1f}", frame.X(point.x), frame.Y(point.y));
  }
  return path + fmt::format("L{:.1f} {:.1f}Z", frame.X(layer.points.back().x), frame.bottom);
}

// `floor`: the height of the stacks before it, to which it is added.
std::string StackPath(const ChartLayer& layer, const Frame& frame, std::vector<double>* floor) {
  floor->resize(layer.points.size());
  std::string above;
  std::string below;
  for (size_t i = 0; i < layer.points.size(); ++i) {
    const double x = frame.X(layer.points[i].x);
    below.insert(0, fmt::format("L{:.1f} {:.1f}", x, frame.Y((*floor)[i])));
    (*floor)[i] += Height(layer.points[i].y);
    fmt::format_to(std::back_inserter(above), "{}{:.1f} {:.1f}", i == 0 ? "M" : "L", x,
                   frame.Y((*floor)[i]));
  }
  return above + below + "Z";
}

// One path of round dots: lighter than an element for each.
std::string DotsPath(const ChartLayer& layer, const Frame& frame) {
  std::string path;
  for (const ChartPoint& point : layer.points) {
    if (frame.Shows(point)) {
      fmt::format_to(std::back_inserter(path), "M{:.1f} {:.1f}h0", frame.X(point.x),
                     frame.Y(point.y));
    }
  }
  return path;
}

void DrawLayers(const ChartPanel& panel, const Frame& frame, Svg* svg) {
  constexpr double kWidth = 1.7;
  std::vector<double> floor;
  for (const ChartLayer& layer : panel.layers) {
    if (layer.points.empty()) {
      continue;
    }
    switch (layer.kind) {
      case LayerKind::kStack:
        svg->Area(StackPath(layer, frame, &floor), layer.colour, 0.85);
        break;
      case LayerKind::kPoints:
        svg->Path(DotsPath(layer, frame), {layer.colour, 3.6, false, 0.4});
        break;
      case LayerKind::kMarkedLine:
        svg->Path(DotsPath(layer, frame), {layer.colour, 5});
        svg->Path(LinePath(layer, frame), {layer.colour, kWidth});
        break;
      case LayerKind::kArea:
        svg->Area(AreaPath(layer, frame), layer.colour, 0.16);
        svg->Path(LinePath(layer, frame), {layer.colour, kWidth});
        break;
      case LayerKind::kLine:
      case LayerKind::kDashedLine:
        svg->Path(LinePath(layer, frame),
                  {layer.colour, kWidth, layer.kind == LayerKind::kDashedLine});
    }
  }
}

void DrawGrid(const Frame& frame, Svg* svg) {
  for (const double tick : frame.x_scale.ticks()) {
    svg->Line(frame.X(tick), frame.top, frame.X(tick), frame.bottom, {});
  }
  for (const double tick : frame.y_scale.ticks()) {
    const double y = frame.Y(tick);
    svg->Line(frame.left, y, frame.right, y, {});
    svg->Text(frame.left - kTickGap, y + 4, frame.y_scale.Label(tick), Anchor::kEnd);
  }
}

void DrawMark(const ChartPanel& panel, const Frame& frame, Svg* svg) {
  if (!panel.mark || !frame.y_scale.Shows(panel.mark->value)) {
    return;
  }
  const double y = frame.Y(panel.mark->value);
  const bool goal = !panel.mark->label.empty();
  svg->Line(frame.left, y, frame.right, y,
            {goal ? Colour::kBad : Colour::kMuted, goal ? 1.0 : 1.5, goal});
  if (goal) {
    svg->Label(frame.right - 4, y - 4,
               fmt::format("{} {:.4g} {}", panel.mark->label, panel.mark->value, panel.y.title),
               Anchor::kEnd, Colour::kBad);
  }
}

void DrawXAxis(const ChartAxis& axis, const Frame& frame, Svg* svg) {
  for (const double tick : frame.x_scale.ticks()) {
    svg->Text(frame.X(tick), frame.bottom + kAxisLabel, frame.x_scale.Label(tick), Anchor::kMiddle);
  }
  svg->Text((frame.left + frame.right) / 2, frame.bottom + kAxisTitle, axis.title, Anchor::kMiddle);
}

double WidestLabel(const ChartScale& scale) {
  double width = 0;
  for (const double tick : scale.ticks()) {
    width = std::max(width, TextWidth(scale.Label(tick), Svg::kTextSize));
  }
  return width;
}

}  // namespace

Svg DrawPanels(const std::vector<ChartPanel>& panels, const ChartLayout& layout) {
  const size_t columns = layout.columns;
  const size_t rows = (panels.size() + columns - 1) / columns;
  const double column_width = layout.width / static_cast<double>(columns);
  std::vector<ChartScale> y_scales;
  double labels = 0;
  for (const ChartPanel& panel : panels) {
    const int most = static_cast<int>(layout.panel_height / kYTick);
    y_scales.emplace_back(panel.y, YValues(panel), std::max(2, most));
    labels = std::max(labels, WidestLabel(y_scales.back()));
  }
  const double left = kEdge + labels + kTickGap;
  const double least_tick = layout.x.kind == ScaleKind::kLinear ? kXTick : kXTickLog;
  const int x_ticks = static_cast<int>((column_width - left - kRight) / least_tick);
  const ChartScale x_scale(layout.x, XValues(panels), std::max(2, x_ticks));
  // A label at the axis's end is centred on it.
  const double last = x_scale.ticks().empty()
                          ? 0
                          : TextWidth(x_scale.Label(x_scale.ticks().back()), Svg::kTextSize);
  const double right = column_width - std::max(kRight, last / 2 + kEdge);

  std::vector<Legend> legends;
  std::vector<double> headers(rows, kHeader);
  double height = kBottom + layout.panel_height * static_cast<double>(rows);
  for (size_t i = 0; i < panels.size(); ++i) {
    const double title = kEdge + TitleWidth(panels[i].title, panels[i].y.title);
    legends.emplace_back(panels[i], right - title - kEntryGap, right - left);
    headers[i / columns] = std::max(headers[i / columns], kHeader + legends.back().Height());
  }
  for (const double header : headers) {
    height += header;
  }

  Svg svg(layout.width, height);
  double y = 0;
  for (size_t i = 0; i < panels.size(); ++i) {
    const size_t row = i / columns;
    const double x = column_width * static_cast<double>(i % columns);
    const double top = y + headers[row];
    const Frame frame{x + left, x + right, top, top + layout.panel_height, x_scale, y_scales[i]};
    svg.Title(x + kEdge, y + kTitleLine, panels[i].title, panels[i].y.title);
    legends[i].Draw(frame.left, frame.right, y + kTitleLine, &svg);
    DrawGrid(frame, &svg);
    DrawLayers(panels[i], frame, &svg);
    DrawMark(panels[i], frame, &svg);
    if (i + columns >= panels.size()) {
      DrawXAxis(layout.x, frame, &svg);
    }
    if (i % columns == columns - 1) {
      y = frame.bottom;
    }
  }
  return svg;
}

}  // namespace dualfp
