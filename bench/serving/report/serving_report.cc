#include "bench/serving/report/serving_report.h"

#include <fmt/core.h>

#include <iterator>
#include <map>

namespace dualfp {
namespace {

struct NamedSummary {
  const char* key;  // as in JSON
  const char* title;
  const Summary ServingMetrics::*summary;
};

constexpr NamedSummary kSummaries[] = {
    {"ttft", "Time to first token (TTFT)", &ServingMetrics::ttft},
    {"tpot", "Time per output token (TPOT)", &ServingMetrics::tpot},
    {"itl", "Inter-token latency (ITL)", &ServingMetrics::itl},
    {"e2el", "End-to-end latency (E2EL)", &ServingMetrics::e2el}};

Json ByPrecision(const TokensByPrecision& tokens) {
  Json json = Json::object();
  for (int i = 0; i < kNumPrecisionClasses; ++i) {
    json[std::string(PrecisionClassName(static_cast<PrecisionClass>(i)))] = tokens[i];
  }
  return json;
}

void AddSummaries(const ServingMetrics& metrics, Json* json) {
  for (const NamedSummary& named : kSummaries) {
    const Summary& summary = metrics.*named.summary;
    const std::pair<const char*, double> values[] = {{"mean", summary.mean},
                                                     {"median", summary.median},
                                                     {"std", summary.deviation},
                                                     {"p90", summary.p90},
                                                     {"p99", summary.p99}};
    for (const auto& [name, value] : values) {
      // Without a sample there is no such number, and JSON has no NaN.
      (*json)[fmt::format("{}_{}_ms", name, named.key)] =
          summary.count > 0 ? Json(1e3 * value) : Json();
    }
  }
}

Json Requests(const LoadResult& load) {
  Json requests = Json::array();
  for (const RequestRecord& record : load.records) {
    Json request = {{"planned", record.planned},
                    {"start", record.start},
                    {"prompt_tokens", record.prompt_tokens},
                    {"output_tokens", record.output_tokens}};
    if (record.ok()) {
      request["ttft"] = record.ttft;
      request["latency"] = record.latency;
    } else {
      request["error"] = record.error;
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

Json Samples(const LoadResult& load) {
  Json samples = Json::array();
  for (const ServerSample& sample : load.samples) {
    Json json = {{"at", sample.at},
                 {"running", sample.running},
                 {"waiting", sample.waiting},
                 {"kv_cache_usage", sample.kv_usage}};
    if (sample.fp8_layers) {
      json["fp8_layers"] = *sample.fp8_layers;
      json["precision_tokens"] = ByPrecision(sample.tokens);
    }
    samples.push_back(std::move(json));
  }
  return samples;
}

}  // namespace

std::string DescribePrecisions(const TokensByPrecision& tokens) {
  int64_t all = 0;
  for (const int64_t count : tokens) {
    all += count;
  }
  std::string text;
  for (int i = 0; i < kNumPrecisionClasses; ++i) {
    if (tokens[i] > 0) {
      text += fmt::format("{}{} {:.1f} %", text.empty() ? "" : ", ",
                          PrecisionClassName(static_cast<PrecisionClass>(i)),
                          100.0 * static_cast<double>(tokens[i]) / static_cast<double>(all));
    }
  }
  return text;
}

std::string ToText(const ServingReport& report) {
  const ServingMetrics& m = report.metrics;
  std::string text = fmt::format("{} at {}, {}\n{}\n\n", report.model, report.server,
                                 report.endpoint, report.workload);
  const auto line = [&text](const char* name, const std::string& value) {
    text += fmt::format("{:<34}{:>12}\n", name, value);
  };
  line("Successful requests", fmt::format("{}", m.completed));
  line("Failed requests", fmt::format("{}", m.failed));
  if (report.load.not_sent > 0) {
    line("Not sent: the server was gone", fmt::format("{}", report.load.not_sent));
  }
  line("Duration, s", fmt::format("{:.2f}", m.duration));
  line("Input tokens", fmt::format("{}", m.total_input_tokens));
  line("Output tokens", fmt::format("{}", m.total_output_tokens));
  line("Request throughput, /s", fmt::format("{:.2f}", m.request_throughput));
  if (m.request_goodput) {
    line("Request goodput, /s", fmt::format("{:.2f}", *m.request_goodput));
    line("Good requests, %", fmt::format("{:.1f}", 100 * *m.good_share));
  }
  line("Output token throughput, /s", fmt::format("{:.1f}", m.output_throughput));
  line("Total token throughput, /s", fmt::format("{:.1f}", m.total_token_throughput));
  line("Peak concurrent requests", fmt::format("{}", m.peak_concurrency));
  if (const std::string precisions = DescribePrecisions(m.tokens_by_precision);
      !precisions.empty()) {
    text += fmt::format("{:<34}{}\n", "Tokens by precision", precisions);
  }
  text += fmt::format("\n{:<34}{:>10}{:>10}{:>10}{:>10}\n", "ms", "mean", "median", "p90", "p99");
  for (const NamedSummary& named : kSummaries) {
    const Summary& s = m.*named.summary;
    if (s.count > 0) {
      text += fmt::format("{:<34}{:>10.2f}{:>10.2f}{:>10.2f}{:>10.2f}\n", named.title, 1e3 * s.mean,
                          1e3 * s.median, 1e3 * s.p90, 1e3 * s.p99);
    }
  }
  return text;
}

Json ToJson(const ServingReport& report) {
  const ServingMetrics& m = report.metrics;
  Json json = {{"benchmark", "serve"},        {"date", report.date},
               {"backend", "openai"},         {"base_url", report.server},
               {"endpoint", report.endpoint}, {"model_id", report.model},
               {"workload", report.workload}};
  for (const auto& [name, value] : report.settings) {
    json[name] = value;
  }
  json["duration"] = m.duration;
  json["completed"] = m.completed;
  json["failed"] = m.failed;
  json["not_sent"] = report.load.not_sent;
  json["total_input_tokens"] = m.total_input_tokens;
  json["total_output_tokens"] = m.total_output_tokens;
  json["request_throughput"] = m.request_throughput;
  json["request_goodput"] = m.request_goodput ? Json(*m.request_goodput) : Json();
  json["good_share"] = m.good_share ? Json(*m.good_share) : Json();
  json["output_throughput"] = m.output_throughput;
  json["total_token_throughput"] = m.total_token_throughput;
  json["max_output_tokens_per_s"] = m.max_output_tokens_per_s;
  json["max_concurrent_requests"] = m.max_concurrent_requests;
  json["peak_concurrency"] = m.peak_concurrency;
  json["tokens_by_precision"] = ByPrecision(m.tokens_by_precision);
  AddSummaries(m, &json);

  Json input_lens = Json::array();
  Json output_lens = Json::array();
  Json ttfts = Json::array();
  Json itls = Json::array();
  Json errors = Json::array();
  for (const RequestRecord& record : report.load.records) {
    if (record.ok()) {
      input_lens.push_back(record.prompt_tokens);
      output_lens.push_back(record.output_tokens);
      ttfts.push_back(record.ttft);
      itls.push_back(record.itl);
    } else {
      errors.push_back(record.error);
    }
  }
  json["input_lens"] = std::move(input_lens);
  json["output_lens"] = std::move(output_lens);
  json["ttfts"] = std::move(ttfts);
  json["itls"] = std::move(itls);
  json["errors"] = std::move(errors);
  json["requests"] = Requests(report.load);
  json["server_samples"] = Samples(report.load);
  return json;
}

}  // namespace dualfp
