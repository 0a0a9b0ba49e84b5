#include "bench/serving/workload/workload.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "dualfp/base/check.h"

namespace dualfp {

Workload RandomWorkload(int64_t count, const RandomLengths& lengths, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto draw = [&](int64_t mean) {
    const double spread = lengths.range_ratio * static_cast<double>(mean);
    const auto low = static_cast<int64_t>(std::ceil(static_cast<double>(mean) - spread));
    const auto high = static_cast<int64_t>(std::floor(static_cast<double>(mean) + spread));
    return std::max<int64_t>(1, std::uniform_int_distribution<int64_t>(low, high)(random));
  };
  Workload workload(static_cast<size_t>(count));
  for (PlannedRequest& request : workload) {
    request.prompt_tokens = draw(lengths.input);
    request.output_tokens = draw(lengths.output);
  }
  return workload;
}

void SpreadArrivals(Workload* workload, double rate, double burstiness, uint64_t seed) {
  if (workload->empty()) {
    return;
  }
  if (!std::isfinite(rate)) {
    for (PlannedRequest& request : *workload) {
      request.at = 0;
    }
    return;
  }
  std::mt19937_64 random(seed);
  std::gamma_distribution<double> gap(burstiness, 1.0 / (rate * burstiness));
  double now = 0;
  for (PlannedRequest& request : *workload) {
    request.at = now;
    now += gap(random);
  }
  const double last = workload->back().at;
  const double wanted = static_cast<double>(workload->size() - 1) / rate;
  for (PlannedRequest& request : *workload) {
    request.at *= last > 0 ? wanted / last : 0;
  }
}

void DilateTime(Workload* workload, double factor) {
  for (PlannedRequest& request : *workload) {
    request.at /= factor;
  }
}

void Thin(Workload* workload, double keep, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::bernoulli_distribution drop(1.0 - keep);
  workload->erase(std::remove_if(workload->begin(), workload->end(),
                                 [&](const PlannedRequest&) { return drop(random); }),
                  workload->end());
}

void ScaleLengths(Workload* workload, double factor) {
  const auto scale = [factor](int64_t tokens) {
    return std::max<int64_t>(1, std::llround(static_cast<double>(tokens) * factor));
  };
  for (PlannedRequest& request : *workload) {
    request.prompt_tokens = scale(request.prompt_tokens);
    request.output_tokens = scale(request.output_tokens);
  }
}

int64_t FitContext(Workload* workload, int64_t max_model_len) {
  int64_t shortened = 0;
  for (PlannedRequest& request : *workload) {
    if (request.prompt_tokens + request.output_tokens > max_model_len) {
      request.output_tokens =
          std::min(request.output_tokens,
                   std::max(max_model_len / 2, max_model_len - request.prompt_tokens));
      request.prompt_tokens = std::max<int64_t>(
          1, std::min(request.prompt_tokens, max_model_len - request.output_tokens));
      ++shortened;
    }
  }
  return shortened;
}

double MeanRate(const Workload& workload) {
  const double span = workload.empty() ? 0 : workload.back().at - workload.front().at;
  return span > 0 ? static_cast<double>(workload.size() - 1) / span : 0;
}

}  // namespace dualfp
