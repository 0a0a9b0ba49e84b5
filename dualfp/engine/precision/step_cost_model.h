// What a step will take, learned while serving.
//
//   seconds = (1 - f) * (fp16 . x) + f * (fp8 . x)
//   x = [1, prefill tokens, decoding sequences, context tokens],  f = fraction of layers in FP8
//
// Eight coefficients, fitted by recursive least squares with forgetting; residuals are clipped
// (Huber), so that a page fault or a neighbour's burst does not bend the fit.

#pragma once

#include <array>
#include <cstdint>

namespace dualfp {

struct StepFeatures {
  int64_t prefill_tokens = 0;
  int64_t decode_sequences = 0;
  int64_t context_tokens = 0;  // keys attended to: sum over sequences of their context length
};

class StepCostModel {
 public:
  StepCostModel();

  // Seconds; never negative. Until FP8 (FP16) has been seen in some steps its cost is taken from
  // the other's, by the ratio of the bytes that nested weights read (1/2), softened to 0.6.
  double Predict(const StepFeatures& step, double fp8_fraction) const;

  void Observe(const StepFeatures& step, double fp8_fraction, double seconds);

  // Moving average of |predicted - measured| / measured.
  double relative_error() const { return relative_error_; }

 private:
  static constexpr int kFeatures = 4;
  static constexpr int kSize = 2 * kFeatures;
  using Vector = std::array<double, kSize>;

  static Vector Encode(const StepFeatures& step, double fp8_fraction);

  Vector theta_{};
  std::array<Vector, kSize> covariance_{};
  double noise_ = 0.0;           // moving average of |residual|, relative
  double relative_error_ = 0.3;  // until something is known
  double weight_fp16_ = 0.0;     // sum of (1 - f) and of f over the steps seen
  double weight_fp8_ = 0.0;
};

}  // namespace dualfp
