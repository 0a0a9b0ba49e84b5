#include "apps/plot_svg.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace dualfp {
namespace {

constexpr int kWidth = 720;
constexpr int kLabelWidth = 110;
constexpr int kValueWidth = 80;
constexpr int kPlotWidth = kWidth - kLabelWidth - kValueWidth;
constexpr int kTop = 44;
constexpr int kBarHeight = 16;
constexpr int kRowHeight = 22;
constexpr int kGroupGap = 14;
constexpr int kBottom = 44;
constexpr const char* kColours[] = {"#4878a8", "#c8803c", "#5a9a5a", "#8868a8"};

}  // namespace

std::string EscapeXml(const std::string& text) {
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
      default:
        escaped += c;
    }
  }
  return escaped;
}

double TickStep(double largest) {
  const double raw = largest / 6;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw) {
      return factor * power;
    }
  }
  return 10 * power;
}

std::string DrawBarChart(const BarChart& chart) {
  double largest = 0;
  int height = kTop + kBottom;
  for (const std::vector<Bar>& group : chart.groups) {
    height += static_cast<int>(group.size()) * kRowHeight + kGroupGap;
    for (const Bar& bar : group) {
      largest = std::max({largest, bar.value, bar.high});
    }
  }
  largest = largest > 0 ? largest : 1;
  const auto x = [largest](double value) { return kLabelWidth + kPlotWidth * value / largest; };
  const int axis_y = height - kBottom;

  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#333\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>\n"
      "<text x=\"{2}\" y=\"24\" font-size=\"14\">{3}</text>\n",
      kWidth, height, kLabelWidth, EscapeXml(chart.title));
  const double step = TickStep(largest);
  for (int tick = 0; tick * step <= largest; ++tick) {
    svg += fmt::format(
        "<line x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\" stroke=\"#ddd\"/>\n"
        "<text x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4:.3g}</text>\n",
        x(tick * step), kTop - 6, axis_y, axis_y + 16, tick * step);
  }
  int y = kTop;
  for (size_t i = 0; i < chart.groups.size(); ++i) {
    for (const Bar& bar : chart.groups[i]) {
      const int middle = y + kBarHeight / 2;
      svg += fmt::format(
          "<text x=\"{0}\" y=\"{1}\" text-anchor=\"end\">{2}</text>\n"
          "<rect x=\"{3}\" y=\"{4}\" width=\"{5:.1f}\" height=\"{6}\" fill=\"{7}\"/>\n"
          "<path d=\"M{8:.1f} {9}H{10:.1f}M{8:.1f} {11}v6M{10:.1f} {11}v6\" stroke=\"#333\"/>\n"
          "<text x=\"{12:.1f}\" y=\"{1}\">{13:.3g}</text>\n",
          kLabelWidth - 8, middle + 4, EscapeXml(bar.label), kLabelWidth, y,
          x(bar.value) - kLabelWidth, kBarHeight, kColours[i % std::size(kColours)], x(bar.low),
          middle, x(bar.high), middle - 3, x(std::max(bar.value, bar.high)) + 6, bar.value);
      y += kRowHeight;
    }
    y += kGroupGap;
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n</svg>\n",
                     kLabelWidth + kPlotWidth / 2, axis_y + 34, EscapeXml(chart.axis));
  return svg;
}

}  // namespace dualfp
