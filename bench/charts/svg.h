// What charts are drawn with: colours in a light and a dark theme, the width of text, and SVG.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace dualfp {

enum class Colour : uint8_t {
  kPage,
  kCard,  // what charts stand on
  kInk,
  kMuted,
  kLine,
  kBad,
  // As on the server's page.
  kFp16,
  kFp8,
  kMixed,
  kSecond,
  kSeries,  // the first of eight
};

constexpr size_t kNumSeriesColours = 8;

// The nth colour of a series, from eight that colour-blind people tell apart.
Colour SeriesColour(size_t n);

// CSS: a variable for each colour ("--ink"), light or dark as the reader prefers, and with them the
// looks of the charts on a page.
std::string ThemeStyle();

// For text and attributes of HTML and SVG.
std::string EscapeMarkup(std::string_view text);

// Pixels that `text` (UTF-8) takes at a font's size: of a wide font, so that in others it is less.
double TextWidth(std::string_view text, double size);

// `text`, or its beginning and an ellipsis where it is wider than `width`.
std::string Shorten(std::string_view text, double size, double width);

struct Stroke {
  Colour colour = Colour::kLine;
  double width = 1;
  bool dashed = false;
  double opacity = 1;
};

enum class Anchor : uint8_t { kStart, kMiddle, kEnd };

// A drawing of a known size, in pixels from its upper left corner. Colours are attributes, which
// any viewer draws, and classes, for browsers to replace them in the dark.
class Svg {
 public:
  static constexpr double kTextSize = 12;

  Svg(double width, double height) : width_(width), height_(height) {}

  void Line(double x1, double y1, double x2, double y2, const Stroke& stroke);
  // `path` in SVG's syntax.
  void Path(std::string_view path, const Stroke& stroke);
  void Area(std::string_view path, Colour colour, double opacity);
  void Bar(double x, double y, double width, double height, Colour colour);
  void Text(double x, double y, std::string_view text, Anchor anchor,
            Colour colour = Colour::kMuted);
  // In bold, followed by the unit.
  void Title(double x, double y, std::string_view title, std::string_view unit);
  // On top of lines, and legible.
  void Label(double x, double y, std::string_view text, Anchor anchor, Colour colour);
  // `spans` are Span()s: the viewer sets them one after the other, as wide as they are.
  void Spans(double x, double y, std::string_view spans, Anchor anchor);

  static std::string Span(std::string_view text, Colour colour, double gap);

  // For an HTML page that has ThemeStyle().
  std::string Element() const;
  // On its own, with a margin.
  std::string File() const;

 private:
  std::string Wrap(double margin, std::string_view style) const;

  double width_;
  double height_;
  std::string body_;
};

double TitleWidth(std::string_view title, std::string_view unit);

}  // namespace dualfp
