// The next token from one row of logits.

#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "dualfp/kernels/context.h"

namespace dualfp {

struct SamplingParameters {
  double temperature = 0;  // 0: the most likely token
  double top_p = 1;        // keep the most likely tokens that together reach this probability
  uint64_t seed = 0;
};

class TokenSampler {
 public:
  explicit TokenSampler(const SamplingParameters& parameters)
      : parameters_(parameters), generator_(parameters.seed) {}

  // `logits` is F32 [vocabulary]. Throws kInternal when there is no largest one (all NaN).
  int32_t Sample(const Context& context, std::span<const float> logits);

 private:
  SamplingParameters parameters_;
  std::mt19937_64 generator_;
  std::vector<float> probability_;
  std::vector<int32_t> order_;
};

}  // namespace dualfp
