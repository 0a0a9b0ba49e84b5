// ToHtml() and ToSvg() of a serving report.

#include <fmt/format.h>

#include <cmath>
#include <iterator>
#include <numeric>

#include "bench/serving/report/serving_report.h"
#include "bench/serving/report/timeline.h"

namespace dualfp {
namespace {

constexpr std::string_view kPageStyle = R"(
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 14px/1.5 system-ui,
  -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 40px; display: grid; gap: 14px; }
h1 { font-size: 21px; letter-spacing: -.02em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 14px; margin: 0 0 10px; }
p { margin: 2px 0; color: var(--muted); overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 16px 18px; min-width: 0; }
.tiles { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.tile b { display: block; font-size: 24px; line-height: 1.3; letter-spacing: -.02em; }
.tile b small { font-size: 13px; font-weight: 500; color: var(--muted); }
.tile span { color: var(--muted); font-size: 12.5px; }
.failed b { color: var(--bad); }
.three { display: grid; gap: 18px; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr)); }
svg.chart { width: 100%; height: auto; display: block; overflow: visible; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: 5px 0 5px 12px; text-align: right; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { color: var(--muted); font-weight: 500; font-size: 12.5px; border: 0; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
dl { display: grid; gap: 8px 28px; margin: 0;
  grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); }
dt { color: var(--muted); font-size: 12.5px; }
dd { margin: 0; overflow-wrap: anywhere; }
@media print { .card { break-inside: avoid; } }
)";

void Tile(std::string* html, const std::string& value, const char* unit, const std::string& name,
          const char* kind = "") {
  *html +=
      fmt::format("<div class=\"card tile {}\"><b>{} <small>{}</small></b><span>{}</span></div>\n",
                  kind, value, unit, EscapeMarkup(name));
}

std::string Milliseconds(double seconds) {
  const double value = 1e3 * seconds;
  return fmt::format("{:.{}f}", value, value < 10 ? 2 : value < 100 ? 1 : 0);
}

void Tiles(const ServingReport& report, std::string* html) {
  const ServingMetrics& m = report.metrics;
  *html += "<div class=\"tiles\">\n";
  Tile(html, fmt::format("{:.2f}", m.request_throughput), "/s",
       fmt::format("requests; {} completed", m.completed));
  if (m.failed + report.load.not_sent > 0) {
    Tile(html, fmt::format("{}", m.failed + report.load.not_sent), "", "requests failed", "failed");
  }
  Tile(html, fmt::format("{:.0f}", m.output_throughput), "/s",
       fmt::format("output tokens; {:.0f} with prompts", m.total_token_throughput));
  if (m.good_share) {
    Tile(html, fmt::format("{:.1f}", 100 * *m.good_share), "%",
         fmt::format("within the goals; {:.2f} requests/s", *m.request_goodput));
  }
  if (m.ttft.count > 0) {
    Tile(html, Milliseconds(m.ttft.median), "ms",
         fmt::format("TTFT, median; p99 {} ms", Milliseconds(m.ttft.p99)));
  }
  if (m.tpot.count > 0) {
    Tile(html, Milliseconds(m.tpot.median), "ms",
         fmt::format("TPOT, median; p99 {} ms", Milliseconds(m.tpot.p99)));
  }
  const auto share = [&m](PrecisionClass precision) {
    const auto tokens = m.tokens_by_precision[static_cast<size_t>(precision)];
    const auto& all = m.tokens_by_precision;
    return 100.0 * static_cast<double>(tokens) /
           static_cast<double>(std::accumulate(all.begin(), all.end(), int64_t{0}));
  };
  if (const double fp8 = share(PrecisionClass::kFp8); std::isfinite(fp8)) {
    Tile(html, fmt::format("{:.0f}", fp8), "%",
         fmt::format("of tokens in FP8; {:.0f} % exact, {:.0f} % mixed",
                     share(PrecisionClass::kExact), share(PrecisionClass::kMixed)));
  }
  *html += "</div>\n";
}

void Distributions(const ServingReport& report, std::string* html) {
  std::vector<double> ttft, itl, e2el;
  for (const RequestRecord& record : report.load.records) {
    if (record.ok()) {
      ttft.push_back(record.ttft);
      itl.insert(itl.end(), record.itl.begin(), record.itl.end());
      e2el.push_back(record.latency);
    }
  }
  *html += "<section class=\"card\"><h2>Distributions</h2><div class=\"three\">\n";
  for (auto& [title, sample] : {std::pair<const char*, std::vector<double>*>{"TTFT", &ttft},
                                {"ITL", &itl},
                                {"End to end", &e2el}}) {
    if (sample->empty()) {
      continue;
    }
    const Distribution drawn = DrawDistribution(title, std::move(*sample));
    ChartLayout layout;
    layout.width = 320;
    layout.panel_height = 130;
    layout.x = {"ms"};
    layout.x.to = drawn.x_end;
    *html += DrawPanels({drawn.panel}, layout).Element();
  }
  *html += "</div></section>\n";
}

void Latencies(const ServingMetrics& m, std::string* html) {
  *html +=
      "<section class=\"card\"><h2>Latency</h2><table><tr><th>ms</th><th>mean</th><th>median</th>"
      "<th>p90</th><th>p99</th></tr>\n";
  for (const auto& [name, summary] :
       {std::pair<const char*, const Summary*>{"Time to first token", &m.ttft},
        {"Time per output token", &m.tpot},
        {"Inter-token latency", &m.itl},
        {"End to end", &m.e2el}}) {
    if (summary->count > 0) {
      *html += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                           name, Milliseconds(summary->mean), Milliseconds(summary->median),
                           Milliseconds(summary->p90), Milliseconds(summary->p99));
    }
  }
  *html += "</table></section>\n";
}

void Settings(const ServingReport& report, std::string* html) {
  *html += "<section class=\"card\"><h2>Run</h2><dl>\n";
  const auto row = [html](std::string_view name, const std::string& value) {
    *html +=
        fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", EscapeMarkup(name), EscapeMarkup(value));
  };
  row("server", report.server + report.endpoint);
  row("duration", fmt::format("{:.1f} s", report.metrics.duration));
  row("input tokens", fmt::format("{}", report.metrics.total_input_tokens));
  row("output tokens", fmt::format("{}", report.metrics.total_output_tokens));
  row("peak concurrency", fmt::format("{}", report.metrics.peak_concurrency));
  for (const auto& [name, value] : report.settings) {
    if (!value.is_null()) {
      row(name, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
  *html += "</dl></section>\n";
}

Svg DrawTimeline(const ServingReport& report) {
  ChartLayout layout;
  layout.x = {"seconds"};
  layout.x.to = std::max(1e-3, report.load.duration);
  return DrawPanels(Timeline(report.load, report.goodput), layout);
}

}  // namespace

std::string ToHtml(const ServingReport& report) {
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\">\n"
      "<title>{0}: load test</title>\n<style>{1}{2}</style>\n</head>\n<body>\n<main>\n"
      "<header><h1>{0}</h1><p>{3}</p><p>{4}</p></header>\n",
      EscapeMarkup(report.model), ThemeStyle(), kPageStyle, EscapeMarkup(report.workload),
      EscapeMarkup(report.date));
  Tiles(report, &html);
  html += "<section class=\"card\"><h2>Timeline</h2>\n" + DrawTimeline(report).Element() +
          "</section>\n";
  Distributions(report, &html);
  Latencies(report.metrics, &html);
  Settings(report, &html);
  html += "</main>\n</body>\n</html>\n";
  return html;
}

std::string ToSvg(const ServingReport& report) { return DrawTimeline(report).File(); }

}  // namespace dualfp
