// Traces shaped like those that Microsoft published of Azure's LLM services (2023, 2024): lengths
// by log-normal distributions through the published median and 90th percentile, arrivals by a
// process of the same kind. They are made on the spot, so that a benchmark needs no download.

#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "bench/serving/workload/workload.h"

namespace dualfp {

// exp(mu + sigma z), given by two of its quantiles.
struct LengthDistribution {
  double median = 1;
  double p90 = 1;
  int64_t largest = 1;  // the model's limit; rare
};

// How requests come.
enum class ArrivalProcess : uint8_t {
  kModulatedPoisson,  // Poisson within a minute; the minutes' rates are log-normal and AR(1)
  kGamma,             // independent Gamma gaps
  kOnOff,             // Poisson bursts with pauses between them
};

struct SyntheticTrace {
  std::string_view name;
  std::string_view description;
  LengthDistribution prompt;
  LengthDistribution output;
  ArrivalProcess arrivals = ArrivalProcess::kModulatedPoisson;
  double rate = 1;           // requests a second, on average
  double gap_variation = 1;  // kGamma: coefficient of variation of the gaps
};

// azure-conv-2023, azure-conv-2024, azure-code.
std::span<const SyntheticTrace> SyntheticTraces();

// nullptr when there is none of that name.
const SyntheticTrace* FindSyntheticTrace(std::string_view name);

// The first `count` requests at the trace's own rate. Lengths are stratified: the quantiles of a
// few hundred are already those of the distribution.
Workload Synthesize(const SyntheticTrace& trace, int64_t count, uint64_t seed);

}  // namespace dualfp
