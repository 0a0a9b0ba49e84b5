// What a step will take, learned while serving.
//
//   seconds = fp16 . x16 + fp8 . x8
//   x = [weights read, prefill tokens, decoding sequences, context tokens]
//
// where rows of which a fraction f of the layers is in FP8 add (1 - f) of themselves to x16 and f
// to x8, and x16[0], x8[0] are the shares of the layers of which the step reads the weights so.
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

// What a step does at each precision. Rows of one step may have several plans.
struct StepWork {
  struct Part {
    double passes = 0.0;  // share of the layers whose weights are read
    double prefill_tokens = 0.0;
    double decode_sequences = 0.0;
    double context_tokens = 0.0;
  };
  Part fp16;
  Part fp8;

  // Rows with `fp8_fraction` of their layers in FP8. Weights that other rows read too are read
  // once: the layers of one plan are taken to be among those of the other.
  void Add(const StepFeatures& rows, double fp8_fraction);
};

class StepCostModel {
 public:
  StepCostModel();

  // Seconds; never negative. Until FP8 (FP16) has been seen in some steps its cost is taken from
  // the other's, by the ratio of the bytes that nested weights read (1/2), softened to 0.6.
  double Predict(const StepWork& work) const;
  // A step of rows of one plan.
  double Predict(const StepFeatures& step, double fp8_fraction) const;

  void Observe(const StepWork& work, double seconds);
  void Observe(const StepFeatures& step, double fp8_fraction, double seconds);

  // Moving average of |predicted - measured| / measured.
  double relative_error() const { return relative_error_; }

 private:
  static constexpr int kFeatures = 4;
  static constexpr int kSize = 2 * kFeatures;
  using Vector = std::array<double, kSize>;

  static Vector Encode(const StepWork& work);

  Vector theta_{};
  std::array<Vector, kSize> covariance_{};
  double noise_ = 0.0;           // moving average of |residual|, relative
  double relative_error_ = 0.3;  // until something is known
  double weight_fp16_ = 0.0;     // sum of passes over the steps seen
  double weight_fp8_ = 0.0;
};

}  // namespace dualfp
