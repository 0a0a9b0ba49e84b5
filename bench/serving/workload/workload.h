// What a benchmark asks of a server, and when: a list made before the clock starts.

#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <string_view>
#include <vector>

namespace dualfp {

struct PlannedRequest {
  double at = 0;  // seconds from the start
  int64_t prompt_tokens = 1;
  int64_t output_tokens = 1;
};

// In order of time.
using Workload = std::vector<PlannedRequest>;

struct RandomLengths {
  int64_t input = 128;
  int64_t output = 128;
  double range_ratio = 0;  // lengths are uniform in [(1 - ratio) mean, (1 + ratio) mean]
};

// All at time 0; SpreadArrivals() says otherwise.
Workload RandomWorkload(int64_t count, const RandomLengths& lengths, uint64_t seed);

// Requests a second; infinite: all at once.
constexpr double kAllAtOnce = std::numeric_limits<double>::infinity();

// Spaces the requests by a Gamma distribution of mean 1 / rate and coefficient of variation
// 1 / sqrt(burstiness): 1 is a Poisson process, less is more bursty, more is more even. The gaps
// are then scaled to the rate exactly, so that runs of different seeds bring the same load.
void SpreadArrivals(Workload* workload, double rate, double burstiness, uint64_t seed);

// A CSV file whose columns are a timestamp, prompt tokens and output tokens. A first line that
// begins with no digit is a heading; then the columns are found by name, in any order
// (TIMESTAMP, ContextTokens, GeneratedTokens as in Azure's public traces; timestamp,
// prompt_tokens, output_tokens). Timestamps are seconds or ISO dates ("2023-11-16 18:15:46.68");
// the first request is moved to 0. Throws kInvalidFile, naming the line.
Workload LoadTrace(const std::filesystem::path& path);

// Time runs `factor` times as fast: the same requests in less time.
void DilateTime(Workload* workload, double factor);

// Keeps each request with this probability: fewer requests over the same time, which stays as
// bursty as it was on longer scales.
void Thin(Workload* workload, double keep, uint64_t seed);

// Multiplies all lengths, for models whose context is shorter than the trace's; at least 1 each.
void ScaleLengths(Workload* workload, double factor);

// Shortens what does not fit the context: outputs to half of it, then prompts. Returns how many
// requests were shortened.
int64_t FitContext(Workload* workload, int64_t max_model_len);

// Of the requests after the first, per second from the first to the last; 0 when there are none.
double MeanRate(const Workload& workload);

}  // namespace dualfp
