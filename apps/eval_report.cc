#include "apps/eval_report.h"

#include <fmt/core.h>

#include <utility>

#include "bench/charts/bars.h"

namespace dualfp {
namespace {

std::string WithInterval(const Estimate& estimate, const char* format, double factor = 1) {
  const auto number = [&](double x) { return fmt::format(fmt::runtime(format), factor * x); };
  return fmt::format("{} ({} to {})", number(estimate.value), number(estimate.low),
                     number(estimate.high));
}

Json ToJson(const Estimate& estimate) {
  return {{"value", estimate.value}, {"low", estimate.low}, {"high", estimate.high}};
}

void AddQuality(const Quality& quality, Json& json) {
  json["loss"] = ToJson(quality.loss);
  json["perplexity"] = ToJson(quality.perplexity);
  json["bits_per_byte"] = ToJson(quality.bits_per_byte);
}

void AddDeviation(const Deviation& deviation, Json& json) {
  json["mean_kl"] = ToJson(deviation.mean_kl);
  json["kl_99"] = ToJson(deviation.tail_kl);
  json["top1_agreement"] = ToJson(deviation.top1_agreement);
  json["perplexity_change"] = ToJson(deviation.perplexity_change);
}

void PrintQuality(std::string_view name, const Quality& quality) {
  fmt::print("{}: perplexity {}, {} bits per byte\n", name,
             WithInterval(quality.perplexity, "{:.4f}"),
             WithInterval(quality.bits_per_byte, "{:.4f}"));
}

}  // namespace

void PrintTable(const EvalReport& report) {
  fmt::print("{}: {} tokens ({} bytes) scored in {} windows; 95 % intervals in parentheses\n",
             report.text, report.scored_tokens, report.num_bytes, report.windows);
  if (report.reference_precision) {
    PrintQuality(fmt::format("{} (reference)", PrecisionName(*report.reference_precision)),
                 report.reference);
  }
  PrintQuality(PrecisionName(report.precision), report.rows.front().quality);
  if (!report.reference_precision) {
    return;
  }
  const Deviation& all = report.rows.front().deviation;
  fmt::print("  KL divergence {} nats, 99th percentile {}\n", WithInterval(all.mean_kl, "{:.3g}"),
             WithInterval(all.tail_kl, "{:.3g}"));
  fmt::print("  same likeliest token {} %; perplexity {} %\n",
             WithInterval(all.top1_agreement, "{:.2f}", 100),
             WithInterval(all.perplexity_change, "{:+.3f}", 100));
  if (report.rows.size() == 1) {
    return;
  }
  fmt::print("\n{:<12}  {:<34}  {:>8}  {:>7}  {}\n",
             fmt::format("{} alone", PrecisionName(report.precision)), "KL divergence, nats",
             "99 %", "top-1 %", "perplexity, %");
  for (const EvalRow& row : report.rows) {
    const Deviation& d = row.deviation;
    fmt::print("{:<12}  {:<34}  {:>8.2e}  {:>7.2f}  {}\n", row.name,
               WithInterval(d.mean_kl, "{:.2e}"), d.tail_kl.value, 100 * d.top1_agreement.value,
               WithInterval(d.perplexity_change, "{:+.3f}", 100));
  }
}

void AddFigures(const EvalReport& report, Json& json, Json& against) {
  AddQuality(report.rows.front().quality, json);
  if (report.reference_precision) {
    AddDeviation(report.rows.front().deviation, json);
    AddQuality(report.reference, against);
  }
  for (size_t i = 1; i < report.rows.size(); ++i) {
    Json row = {{"name", report.rows[i].name}};
    AddQuality(report.rows[i].quality, row);
    AddDeviation(report.rows[i].deviation, row);
    json["per_layer"].push_back(std::move(row));
  }
}

std::string DrawParts(const EvalReport& report, const std::string& model) {
  const std::string_view reference = PrecisionName(*report.reference_precision);
  BarChart chart;
  chart.title = fmt::format("{}: one part at {}, the rest at {}", model,
                            PrecisionName(report.precision), reference);
  chart.axis =
      fmt::format("mean KL divergence of the next token from {}, nats (95 % interval)", reference);
  chart.groups.resize(2);
  for (size_t i = 1; i < report.rows.size(); ++i) {
    const EvalRow& row = report.rows[i];
    const Estimate& kl = row.deviation.mean_kl;
    chart.groups[row.is_layer ? 0 : 1].push_back({row.name, kl.value, kl.low, kl.high});
  }
  return DrawBars(chart).File();
}

}  // namespace dualfp
