// The result of `dualfp bench serve`: on the terminal, as JSON, and as a page to look at.

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "bench/serving/load/load_test.h"
#include "bench/serving/report/serving_metrics.h"
#include "dualfp/io/json.h"

namespace dualfp {

// What was run, and what came of it.
struct ServingReport {
  std::string date;    // "2026-11-21 12:00:00 UTC"
  std::string server;  // its URL
  std::string model;
  std::string endpoint;
  std::string workload;  // in words
  // Flags and facts in the order in which they are shown; values are JSON.
  std::vector<std::pair<std::string, Json>> settings;
  Goodput goodput;
  ServingMetrics metrics;
  LoadResult load;
};

// About thirty lines.
std::string ToText(const ServingReport& report);

// Keys are those of vLLM's --save-result; times of single requests in seconds, summaries in
// milliseconds. Beside vLLM's arrays of the completed requests, `requests` has all that were sent.
Json ToJson(const ServingReport& report);

// One file that needs no other: figures, timelines, distributions, settings. Light or dark as the
// browser is.
std::string ToHtml(const ServingReport& report);

// The timelines alone.
std::string ToSvg(const ServingReport& report);

// "tokens computed by precision" where the server told, else nothing: "exact 73 %, fp8 27 %".
std::string DescribePrecisions(const TokensByPrecision& tokens);

}  // namespace dualfp
