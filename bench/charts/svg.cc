#include "bench/charts/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace dualfp {
namespace {

struct Tone {
  const char* name;
  const char* light;
  const char* dark;
};

// By Colour. The series are Okabe and Ito's palette, without the yellow that white paper swallows.
constexpr Tone kTones[] = {{"page", "#f4f5f8", "#0e1119"},     {"card", "#ffffff", "#171b27"},
                           {"ink", "#171a26", "#e9ebf3"},      {"muted", "#666d80", "#8f97ad"},
                           {"line", "#e3e6ee", "#262c3c"},     {"bad", "#d23c4a", "#ff6b78"},
                           {"fp16", "#4c6fff", "#7b93ff"},     {"fp8", "#e08a00", "#ffb347"},
                           {"mixed", "#a67fd0", "#c3a3ea"},    {"second", "#12a5a0", "#35d0c8"},
                           {"series-1", "#0072b2", "#4aa8e0"}, {"series-2", "#d55e00", "#f58a3c"},
                           {"series-3", "#009e73", "#2fc79c"}, {"series-4", "#cc79a7", "#e29cc3"},
                           {"series-5", "#56b4e9", "#96d4f7"}, {"series-6", "#e69f00", "#f5c04a"},
                           {"series-7", "#171a26", "#e9ebf3"}, {"series-8", "#8c6d31", "#c2a15c"}};
static_assert(std::size(kTones) == static_cast<size_t>(Colour::kSeries) + kNumSeriesColours);

constexpr double kTitleSize = 13;
constexpr double kBold = 1.1;  // bold letters over others

const Tone& ToneOf(Colour colour) { return kTones[static_cast<size_t>(colour)]; }

std::string Fill(Colour colour) {
  return fmt::format("class=\"fill-{}\" fill=\"{}\"", ToneOf(colour).name, ToneOf(colour).light);
}

std::string Attributes(const Stroke& stroke) {
  std::string text =
      fmt::format("class=\"stroke-{}\" stroke=\"{}\" stroke-width=\"{}\"",
                  ToneOf(stroke.colour).name, ToneOf(stroke.colour).light, stroke.width);
  if (stroke.dashed) {
    text += " stroke-dasharray=\"5 4\"";
  }
  if (stroke.opacity < 1) {
    text += fmt::format(" opacity=\"{}\"", stroke.opacity);
  }
  return text;
}

const char* Name(Anchor anchor) {
  return anchor == Anchor::kStart ? "start" : anchor == Anchor::kMiddle ? "middle" : "end";
}

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// Of a character's first byte, as a share of the font's size: DejaVu Sans, rounded up.
double CharacterWidth(char c) {
  constexpr std::pair<std::string_view, double> kWidths[] = {
      {" .,:;'|ijlI", 0.34}, {"frt()[]/-!", 0.42}, {"mwMW%@", 1.0}, {"+=", 0.84}};
  for (const auto& [characters, width] : kWidths) {
    if (characters.find(c) != std::string_view::npos) {
      return width;
    }
  }
  return static_cast<unsigned char>(c) >= 0x80 ? 1.0 : c >= 'A' && c <= 'Z' ? 0.79 : 0.65;
}

}  // namespace

Colour SeriesColour(size_t n) {
  return static_cast<Colour>(static_cast<size_t>(Colour::kSeries) + n % kNumSeriesColours);
}

std::string ThemeStyle() {
  std::string light;
  std::string dark;
  std::string classes;
  for (const Tone& tone : kTones) {
    light += fmt::format(" --{}: {};", tone.name, tone.light);
    dark += fmt::format(" --{}: {};", tone.name, tone.dark);
    classes += fmt::format(
        ".fill-{0} {{ fill: var(--{0}); }} .stroke-{0} {{ stroke: var(--{0}); }}\n", tone.name);
  }
  return fmt::format(
      "\n:root {{{} }}\n@media (prefers-color-scheme: dark) {{ :root {{{} }} }}\n{}"
      ".chart {{ font-variant-numeric: tabular-nums; }}\n",
      light, dark, classes);
}

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

double TextWidth(std::string_view text, double size) {
  double width = 0;
  for (const char c : text) {
    width += IsContinuation(c) ? 0 : CharacterWidth(c);
  }
  return width * size;
}

std::string Shorten(std::string_view text, double size, double width) {
  if (TextWidth(text, size) <= width) {
    return std::string(text);
  }
  constexpr std::string_view kEllipsis = "…";
  while (!text.empty() && TextWidth(text, size) + TextWidth(kEllipsis, size) > width) {
    while (text.size() > 1 && IsContinuation(text.back())) {
      text.remove_suffix(1);
    }
    text.remove_suffix(1);
  }
  return std::string(text).append(kEllipsis);
}

void Svg::Line(double x1, double y1, double x2, double y2, const Stroke& stroke) {
  body_ += fmt::format("<line {} x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
                       Attributes(stroke), x1, y1, x2, y2);
}

void Svg::Path(std::string_view path, const Stroke& stroke) {
  body_ += fmt::format(
      "<path {} fill=\"none\" stroke-linejoin=\"round\" stroke-linecap=\"round\" d=\"{}\"/>\n",
      Attributes(stroke), path);
}

void Svg::Area(std::string_view path, Colour colour, double opacity) {
  body_ += fmt::format("<path {} opacity=\"{}\" d=\"{}\"/>\n", Fill(colour), opacity, path);
}

void Svg::Bar(double x, double y, double width, double height, Colour colour) {
  body_ += fmt::format("<rect {} x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>\n",
                       Fill(colour), x, y, width, height);
}

void Svg::Text(double x, double y, std::string_view text, Anchor anchor, Colour colour) {
  body_ += fmt::format("<text {} x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
                       Fill(colour), x, y, Name(anchor), EscapeMarkup(text));
}

void Svg::Title(double x, double y, std::string_view title, std::string_view unit) {
  body_ += fmt::format(
      "<text class=\"title fill-ink\" fill=\"{}\" font-size=\"{}\" font-weight=\"600\" "
      "x=\"{:.1f}\" y=\"{:.1f}\">{}",
      ToneOf(Colour::kInk).light, kTitleSize, x, y, EscapeMarkup(title));
  if (!unit.empty()) {
    body_ += fmt::format("<tspan {} font-weight=\"400\">, {}</tspan>", Fill(Colour::kMuted),
                         EscapeMarkup(unit));
  }
  body_ += "</text>\n";
}

void Svg::Label(double x, double y, std::string_view text, Anchor anchor, Colour colour) {
  body_ += fmt::format(
      "<text class=\"fill-{} stroke-card\" fill=\"{}\" stroke=\"{}\" stroke-width=\"3\" "
      "paint-order=\"stroke\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
      ToneOf(colour).name, ToneOf(colour).light, ToneOf(Colour::kCard).light, x, y, Name(anchor),
      EscapeMarkup(text));
}

void Svg::Spans(double x, double y, std::string_view spans, Anchor anchor) {
  body_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y,
                       Name(anchor), spans);
}

std::string Svg::Wrap(double margin, std::string_view style) const {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" role=\"img\" "
      "viewBox=\"{0:.0f} {0:.0f} {1:.0f} {2:.0f}\" width=\"{1:.0f}\" height=\"{2:.0f}\" "
      "font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif\" "
      "font-size=\"{3}\">\n{4}<rect {5} x=\"{0:.0f}\" y=\"{0:.0f}\" width=\"{1:.0f}\" "
      "height=\"{2:.0f}\"/>\n{6}</svg>\n",
      -margin, width_ + 2 * margin, height_ + 2 * margin, kTextSize, style, Fill(Colour::kCard),
      body_);
}

std::string Svg::Element() const { return Wrap(0, ""); }

std::string Svg::File() const {
  constexpr double kMargin = 12;
  return Wrap(kMargin, "<style>" + ThemeStyle() + "</style>\n");
}

std::string Svg::Span(std::string_view text, Colour colour, double gap) {
  return fmt::format("<tspan {} dx=\"{}\">{}</tspan>", Fill(colour), gap, EscapeMarkup(text));
}

double TitleWidth(std::string_view title, std::string_view unit) {
  return kBold * TextWidth(title, kTitleSize) +
         (unit.empty() ? 0 : TextWidth(", ", kTitleSize) + TextWidth(unit, kTitleSize));
}

}  // namespace dualfp
