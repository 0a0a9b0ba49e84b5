#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <regex>

#include "bench/charts/bars.h"
#include "bench/charts/panels.h"

namespace dualfp {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// Elements are closed, attributes quoted, and no number is missing: what a browser asks of SVG.
void ExpectWellFormed(const std::string& svg) {
  EXPECT_THAT(svg, StartsWith("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  std::vector<std::string> open;
  const std::regex tag("<(/?)([a-z]+)((?: [a-zA-Z0-9-]+=\"[^\"<]*\")*)(/?)>");
  size_t tags = 0;
  for (auto it = std::sregex_iterator(svg.begin(), svg.end(), tag); it != std::sregex_iterator();
       ++it) {
    ++tags;
    if ((*it)[1].length() > 0) {
      ASSERT_FALSE(open.empty());
      EXPECT_EQ(open.back(), (*it)[2].str());
      open.pop_back();
    } else if ((*it)[4].length() == 0) {
      open.push_back((*it)[2].str());
    }
  }
  EXPECT_TRUE(open.empty());
  EXPECT_EQ(tags, static_cast<size_t>(std::count(svg.begin(), svg.end(), '<')));
  EXPECT_GT(tags, 10u);
}

TEST(RoundStepTest, IsOneTwoOrFive) {
  EXPECT_DOUBLE_EQ(RoundStep(1), 1);
  EXPECT_DOUBLE_EQ(RoundStep(1.1), 2);
  EXPECT_DOUBLE_EQ(RoundStep(0.021), 0.05);
  EXPECT_DOUBLE_EQ(RoundStep(60), 100);
  EXPECT_DOUBLE_EQ(RoundStep(0.1 + 0.2 - 0.1), 0.2);
}

TEST(ChartScaleTest, LinearAxesBeginAtZeroAndEndAtTicks) {
  const ChartScale scale({}, {3, 37, NAN}, 5);
  EXPECT_THAT(scale.ticks(), ElementsAre(0, 10, 20, 30, 40));
  EXPECT_DOUBLE_EQ(scale.Share(20), 0.5);
  EXPECT_DOUBLE_EQ(scale.Share(80), 1);
  EXPECT_THAT(ChartScale({}, {-7, 3}, 5).ticks(), ElementsAre(-8, -6, -4, -2, 0, 2, 4));
}

TEST(ChartScaleTest, LinearAxesBeginAndEndWhereTheyAreTold) {
  ChartAxis axis;
  axis.from = 0.6;
  EXPECT_DOUBLE_EQ(ChartScale(axis, {0.8, 1.3}, 8).ticks().front(), 0.6);
  EXPECT_DOUBLE_EQ(ChartScale(axis, {0.33, 1.3}, 8).ticks().front(), 0.2);
  axis = {};
  axis.to = 95;
  const ChartScale scale(axis, {1000}, 5);
  EXPECT_THAT(scale.ticks(), ElementsAre(0, 20, 40, 60, 80));
  EXPECT_DOUBLE_EQ(scale.Share(95), 1);
}

TEST(ChartScaleTest, LogarithmicAxesShowWhatIsPositive) {
  const ChartAxis two{"", ScaleKind::kLog2};
  const ChartScale powers(two, {0, -4, 3, 1000}, 5);
  EXPECT_THAT(powers.ticks(), ElementsAre(2, 8, 32, 128, 512));
  EXPECT_EQ(powers.Label(16384), "16384");
  EXPECT_FALSE(powers.Shows(0));
  EXPECT_FALSE(powers.Shows(NAN));
  EXPECT_THAT(ChartScale(two, {64}, 5).ticks(), ElementsAre(32, 64, 128));

  const ChartAxis ten{"", ScaleKind::kLog10};
  const ChartScale digits(ten, {6, 120}, 8);
  ASSERT_EQ(digits.ticks().size(), 6u);
  EXPECT_NEAR(digits.ticks().front(), 5, 1e-9);
  EXPECT_NEAR(digits.ticks().back(), 200, 1e-9);
  EXPECT_THAT(ChartScale(ten, {1e-6, 1e6}, 8).ticks().size(), 7u);
}

TEST(ChartScaleTest, LabelsAreShort) {
  const ChartScale scale({}, {1}, 5);
  EXPECT_EQ(scale.Label(0.30000000000000004), "0.3");
  EXPECT_EQ(scale.Label(9999), "9999");
  EXPECT_EQ(scale.Label(20000), "20 k");
  EXPECT_EQ(scale.Label(25e6), "25 M");
}

TEST(ChartScaleTest, SurvivesAnyValues) {
  for (const ScaleKind kind : {ScaleKind::kLinear, ScaleKind::kLog2, ScaleKind::kLog10}) {
    for (const std::vector<double>& values : {std::vector<double>{},
                                              {0},
                                              {-3},
                                              {NAN, INFINITY},
                                              {5e-324},
                                              {1e-320, 1e300},
                                              {1e17, 1e17 + 16},
                                              {7, 7}}) {
      const ChartScale scale({"", kind, 7}, values, 2);
      EXPECT_LT(scale.ticks().size(), 8u);
      for (const double value : values) {
        if (scale.Shows(value)) {
          EXPECT_GE(scale.Share(value), 0);
        }
      }
    }
  }
}

TEST(TextWidthTest, CountsCharactersNotBytes) {
  EXPECT_DOUBLE_EQ(TextWidth("é", 10), 10);
  EXPECT_GT(TextWidth("mmm", 10), TextWidth("iii", 10));
  EXPECT_EQ(Shorten("short", 10, 100), "short");
  const std::string cut = Shorten("ééééééééééé", 10, 55);
  EXPECT_EQ(cut, "éééé…");
  EXPECT_EQ(Shorten("anything", 10, 0), "…");
}

ChartPanel TwoLines() {
  ChartPanel panel{"a < b & c", {"TFLOP/s", ScaleKind::kLog10}};
  panel.layers = {{"one", SeriesColour(0), LayerKind::kMarkedLine, {{1, 2}, {16, 30}, {4096, 700}}},
                  {"two <", SeriesColour(1), LayerKind::kDashedLine, {{1, 3}, {4096, 800}}}};
  return panel;
}

TEST(PanelsTest, AreWellFormedSvg) {
  ChartLayout layout;
  layout.x = {"M", ScaleKind::kLog2};
  layout.columns = 2;
  const Svg drawing = DrawPanels({TwoLines(), TwoLines(), TwoLines()}, layout);
  const std::string svg = drawing.Element();
  ExpectWellFormed(svg);
  EXPECT_THAT(svg, HasSubstr("a &lt; b &amp; c"));
  EXPECT_THAT(svg, HasSubstr("two &lt;"));
  EXPECT_THAT(svg, HasSubstr("stroke-dasharray"));
  ExpectWellFormed(drawing.File());
  EXPECT_THAT(drawing.File(), HasSubstr("prefers-color-scheme: dark"));
}

TEST(PanelsTest, SurviveEmptyAndBrokenData) {
  ChartPanel panel;
  panel.title = "<b>&\"";
  panel.y.title = "ms";
  panel.layers.push_back({"x<y", Colour::kInk, LayerKind::kLine, {{0, NAN}, {1, 2}}});
  for (const LayerKind kind : {LayerKind::kLine, LayerKind::kMarkedLine, LayerKind::kArea,
                               LayerKind::kStack, LayerKind::kPoints}) {
    panel.layers.push_back({"", Colour::kFp8, kind, {}});
    panel.layers.push_back({"", Colour::kFp8, kind, {{0, 0}, {-1, 5}, {4, NAN}, {NAN, 1}}});
  }
  panel.mark = {1, "goal"};
  for (const ScaleKind kind : {ScaleKind::kLinear, ScaleKind::kLog2, ScaleKind::kLog10}) {
    panel.y.kind = kind;
    ChartLayout layout;
    layout.x.kind = kind;
    const std::string svg = DrawPanels({panel, {}}, layout).Element();
    ExpectWellFormed(svg);
    EXPECT_THAT(svg, HasSubstr("&lt;b&gt;&amp;&quot;"));
  }
}

TEST(PanelsTest, LegendsThatDoNotFitBesideTheTitleTakeLinesBelow) {
  const auto height = [](const std::string& name, size_t count) {
    ChartPanel panel{"title", {}};
    for (size_t i = 0; i < count; ++i) {
      panel.layers.push_back({name, SeriesColour(i), LayerKind::kLine, {{0, 1}, {1, 2}}});
    }
    ChartLayout layout;
    layout.width = 400;
    const std::string svg = DrawPanels({panel}, layout).Element();
    std::smatch match;
    EXPECT_TRUE(std::regex_search(svg, match, std::regex(" height=\"([0-9]+)\"")));
    return std::stoi(match[1]);
  };
  const int without = height("", 1);
  EXPECT_EQ(height("short", 2), without);
  const int one = height("a name of some length", 2) - without;
  EXPECT_GT(one, 0);
  EXPECT_EQ(height("a name of some length", 5) - without, 3 * one);
}

TEST(BarsTest, AreWellFormedSvg) {
  BarChart chart{
      "a < b", "nats", {{{"layer 0", 1.5, 1.2, 1.9}, {"<1>", 0, 0, 0}}, {{"o", 3, 2, 4}}}};
  const std::string svg = DrawBars(chart).Element();
  ExpectWellFormed(svg);
  EXPECT_THAT(svg, HasSubstr("a &lt; b"));
  EXPECT_THAT(svg, HasSubstr(">&lt;1&gt;<"));
  EXPECT_THAT(svg, HasSubstr(">1.5<"));
  ExpectWellFormed(DrawBars({"t", "x", {{}, {{std::string(500, 'x'), NAN, 0, 1}}}}).File());
}

}  // namespace
}  // namespace dualfp
