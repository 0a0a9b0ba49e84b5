#include "apps/generate/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dualfp/base/check.h"
#include "dualfp/kernels/activation.h"

namespace dualfp {

int32_t TokenSampler::Sample(const Context& context, std::span<const float> logits) {
  const auto best =
      static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  Check(std::isfinite(logits[best]), ErrorCode::kInternal,
        "the model's logits are not finite: its weights or this precision cannot compute");
  if (parameters_.temperature == 0) {
    return best;
  }
  const auto vocabulary = static_cast<int64_t>(logits.size());
  probability_.resize(logits.size());
  Softmax(context, {.x = {logits.data(), DType::kF32, {1, vocabulary}},
                    .scale = static_cast<float>(1 / parameters_.temperature),
                    .y = {probability_.data(), DType::kF32, {1, vocabulary}}});
  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), 0);
  double mass = 1;
  if (parameters_.top_p < 1) {
    std::sort(order_.begin(), order_.end(), [this](int32_t a, int32_t b) {
      return probability_[a] != probability_[b] ? probability_[a] > probability_[b] : a < b;
    });
    mass = 0;
    size_t kept = 0;
    while (kept < order_.size() && (kept == 0 || mass < parameters_.top_p)) {
      mass += probability_[order_[kept++]];
    }
    order_.resize(kept);
  }
  // The generator is the standard's, the step to [0, 1) our own: the same text on every platform.
  double left = static_cast<double>(generator_() >> 11) * 0x1p-53 * mass;
  for (const int32_t token : order_) {
    left -= probability_[token];
    if (left < 0) {
      return token;
    }
  }
  return order_.back();
}

}  // namespace dualfp
