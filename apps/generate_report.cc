#include "apps/generate_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>

#include "dualfp/io/json.h"
#include "dualfp/llm/load_model.h"

namespace dualfp {
namespace {

constexpr Precision kPrecisions[] = {Precision::kExact, Precision::kFp8};

double PerSecond(int64_t tokens, double seconds) {
  return static_cast<double>(tokens) / std::max(1e-9, seconds);
}

PlanCost CostAt(const Decoder& decoder, Precision precision) {
  return decoder.CostOf(
      PrecisionPlan::Uniform(decoder.model().config.num_hidden_layers, precision));
}

}  // namespace

void PrintFigures(const GenerateReport& report, const Decoder& decoder) {
  for (const Precision precision : kPrecisions) {
    const SpentAtPrecision& spent = report.spent[static_cast<int>(precision)];
    if (spent.prefill_tokens + spent.decode_tokens == 0) {
      continue;
    }
    std::string line = fmt::format("{}:", PrecisionName(precision));
    if (spent.prefill_tokens > 0) {
      line += fmt::format(" prompt {} tokens, {:.1f} tokens/s;", spent.prefill_tokens,
                          PerSecond(spent.prefill_tokens, spent.prefill_seconds));
    }
    if (spent.decode_tokens > 0) {
      const int64_t bytes = CostAt(decoder, precision).weight_bytes;
      const double rate = PerSecond(spent.decode_tokens, spent.decode_seconds);
      line += fmt::format(" decode {} tokens, {:.1f} tokens/s, {} of weights a token, {:.1f} GB/s",
                          spent.decode_tokens, rate, HumanBytes(bytes),
                          rate * static_cast<double>(bytes) / 1e9);
    }
    fmt::print(stderr, "{}\n", line);
  }
  if (const auto& comparison = report.comparison) {
    fmt::print(
        stderr,
        "fp8 against exact over {} tokens: KL divergence {:.3g} (largest {:.3g}) nats; logits "
        "move by at most {:.3g}, {:.2g} of their standard deviation; same top token {:.1f} %\n",
        comparison->tokens, comparison->mean_kl, comparison->largest_kl,
        comparison->largest_difference, comparison->largest_difference / comparison->deviation,
        100 * comparison->top1_agreement);
  }
}

void PrintJson(const GenerateReport& report, const Model& model, const Decoder& decoder) {
  Json json;
  json["model"] = report.model;
  json["prompt_token_ids"] = report.prompt;
  json["token_ids"] = report.generated;
  json["text"] = report.text ? Json(*report.text) : Json(nullptr);
  json["finish_reason"] = report.finish_reason;
  const LoadReport& load = model.report;
  json["load"] = {{"seconds", load.seconds},
                  {"weight_bytes", load.weight_bytes},
                  {"linear_layers", load.LayerLinears()},
                  {"nested_linear_layers", load.NestedLayerLinears()}};
  for (const Precision precision : kPrecisions) {
    const SpentAtPrecision& spent = report.spent[static_cast<int>(precision)];
    const PlanCost cost = CostAt(decoder, precision);
    const double rate = PerSecond(spent.decode_tokens, spent.decode_seconds);
    json["precision"][std::string(PrecisionName(precision))] = {
        {"prefill_tokens", spent.prefill_tokens},
        {"prefill_seconds", spent.prefill_seconds},
        {"decode_tokens", spent.decode_tokens},
        {"decode_seconds", spent.decode_seconds},
        {"decode_tokens_per_second", rate},
        {"weight_bytes_per_token", cost.weight_bytes},
        {"gigabytes_per_second", rate * static_cast<double>(cost.weight_bytes) / 1e9},
        {"fallback_linear_layers", cost.fallbacks}};
  }
  if (const auto& comparison = report.comparison) {
    json["comparison"] = {{"tokens", comparison->tokens},
                          {"mean_kl", comparison->mean_kl},
                          {"largest_kl", comparison->largest_kl},
                          {"largest_difference", comparison->largest_difference},
                          {"logit_standard_deviation", comparison->deviation},
                          {"top1_agreement", comparison->top1_agreement}};
  }
  fmt::print("{}\n", json.dump(2));
}

}  // namespace dualfp
