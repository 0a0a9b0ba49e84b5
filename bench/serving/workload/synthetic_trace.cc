#include "bench/serving/workload/synthetic_trace.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace dualfp {
namespace {

constexpr double kNormalP90 = 1.2815515655446004;  // the standard normal's 0.9-quantile

// Of azure-conv-2023: the logarithm of a minute's rate.
constexpr double kMinuteCorrelation = 0.9;
constexpr double kMinuteDeviation = 0.35;

// Of azure-code: exponential bursts and pauses; during a burst the rate is that of the whole trace
// times their sum over the burst's share.
constexpr double kBurstSeconds = 20;
constexpr double kPauseSeconds = 40;

constexpr SyntheticTrace kTraces[] = {
    {.name = "azure-conv-2023",
     .description = "chat; Poisson, the rate wanders from minute to minute",
     .prompt = {1020, 2734, 14050},
     .output = {129, 424, 1000},
     .arrivals = ArrivalProcess::kModulatedPoisson,
     .rate = 5.4},
    {.name = "azure-conv-2024",
     .description = "chat; Gamma gaps with a coefficient of variation of 2.1",
     .prompt = {1030, 3488, 14050},
     .output = {38, 325, 1500},
     .arrivals = ArrivalProcess::kGamma,
     .rate = 5.4,
     .gap_variation = 2.1},
    {.name = "azure-code",
     .description = "code completion; bursts and pauses",
     .prompt = {1469, 5188, 14050},
     .output = {13, 55, 1500},
     .arrivals = ArrivalProcess::kOnOff,
     .rate = 2.5},
};

// The normal quantile by bisection of erfc: exact enough, and short.
double NormalQuantile(double p) {
  double low = -9;
  double high = 9;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

// One value from each of `count` equally likely intervals, in random order.
std::vector<int64_t> DrawLengths(const LengthDistribution& lengths, int64_t count,
                                 std::mt19937_64& random) {
  const double mu = std::log(lengths.median);
  const double sigma = std::log(lengths.p90 / lengths.median) / kNormalP90;
  std::uniform_real_distribution<double> within(0, 1);
  std::vector<int64_t> values;
  values.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const double p = (static_cast<double>(i) + within(random)) / static_cast<double>(count);
    values.push_back(std::clamp<int64_t>(std::llround(std::exp(mu + sigma * NormalQuantile(p))), 1,
                                         lengths.largest));
  }
  std::shuffle(values.begin(), values.end(), random);
  return values;
}

std::vector<double> ModulatedPoisson(int64_t count, double rate, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  const double variance = kMinuteDeviation * kMinuteDeviation;
  double level = kMinuteDeviation * normal(random);
  std::vector<double> times;
  for (double minute = 0; static_cast<int64_t>(times.size()) < count; minute += 60) {
    // The mean of exp(level) is exp(variance / 2).
    std::exponential_distribution<double> gap(rate * std::exp(level - variance / 2));
    double at = minute + gap(random);
    while (at < minute + 60) {
      times.push_back(at);
      at += gap(random);
    }
    level = kMinuteCorrelation * level +
            std::sqrt(variance * (1 - kMinuteCorrelation * kMinuteCorrelation)) * normal(random);
  }
  times.resize(static_cast<size_t>(count));
  return times;
}

std::vector<double> GammaGaps(int64_t count, double rate, double variation,
                              std::mt19937_64& random) {
  const double shape = 1 / (variation * variation);
  std::gamma_distribution<double> gap(shape, 1 / (rate * shape));
  std::vector<double> times;
  double now = 0;
  for (int64_t i = 0; i < count; ++i) {
    times.push_back(now);
    now += gap(random);
  }
  return times;
}

std::vector<double> OnOff(int64_t count, double rate, std::mt19937_64& random) {
  std::exponential_distribution<double> burst(1 / kBurstSeconds);
  std::exponential_distribution<double> pause(1 / kPauseSeconds);
  std::exponential_distribution<double> gap(rate * (kBurstSeconds + kPauseSeconds) / kBurstSeconds);
  std::vector<double> times;
  double now = 0;
  while (static_cast<int64_t>(times.size()) < count) {
    const double end = now + burst(random);
    double at = now + gap(random);
    while (at < end) {
      times.push_back(at);
      at += gap(random);
    }
    now = end + pause(random);
  }
  times.resize(static_cast<size_t>(count));
  return times;
}

}  // namespace

std::span<const SyntheticTrace> SyntheticTraces() { return kTraces; }

const SyntheticTrace* FindSyntheticTrace(std::string_view name) {
  const auto* found = std::find_if(std::begin(kTraces), std::end(kTraces),
                                   [&](const SyntheticTrace& t) { return t.name == name; });
  return found == std::end(kTraces) ? nullptr : found;
}

Workload Synthesize(const SyntheticTrace& trace, int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<double> times;
  switch (trace.arrivals) {
    case ArrivalProcess::kModulatedPoisson:
      times = ModulatedPoisson(count, trace.rate, random);
      break;
    case ArrivalProcess::kGamma:
      times = GammaGaps(count, trace.rate, trace.gap_variation, random);
      break;
    case ArrivalProcess::kOnOff:
      times = OnOff(count, trace.rate, random);
      break;
  }
  const std::vector<int64_t> prompts = DrawLengths(trace.prompt, count, random);
  const std::vector<int64_t> outputs = DrawLengths(trace.output, count, random);
  Workload workload;
  workload.reserve(times.size());
  for (size_t i = 0; i < times.size(); ++i) {
    workload.push_back({times[i] - times.front(), prompts[i], outputs[i]});
  }
  return workload;
}

}  // namespace dualfp
