#include "dualfp/quant/quality.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace dualfp {
namespace {

template <typename Function>
Estimate Map(const Estimate& estimate, const Function& increasing) {
  return {increasing(estimate.value), increasing(estimate.low), increasing(estimate.high)};
}

}  // namespace

Quality QualityOf(const GroupBootstrap& groups, const TokenScores& scores, int64_t num_bytes) {
  const double tokens_per_byte = static_cast<double>(scores.loss.size()) /
                                 static_cast<double>(std::max<int64_t>(1, num_bytes));
  Quality quality;
  quality.loss = groups.MeanOf(scores.loss);
  quality.perplexity = Map(quality.loss, [](double x) { return std::exp(x); });
  quality.bits_per_byte =
      Map(quality.loss, [&](double x) { return x / std::log(2.0) * tokens_per_byte; });
  return quality;
}

Deviation DeviationOf(const GroupBootstrap& groups, const TokenScores& scores,
                      const TokenScores& reference) {
  std::vector<double> change(scores.loss.size());
  std::transform(scores.loss.begin(), scores.loss.end(), reference.loss.begin(), change.begin(),
                 std::minus<>());
  return {groups.MeanOf(scores.kl), groups.QuantileOf(scores.kl, kTailQuantile),
          groups.MeanOf(scores.same_top),
          Map(groups.MeanOf(change), [](double x) { return std::expm1(x); })};
}

}  // namespace dualfp
