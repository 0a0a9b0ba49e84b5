#include "dualfp/engine/precision/step_cost_model.h"

#include <algorithm>
#include <cmath>

namespace dualfp {
namespace {

// Features are brought to the order of one, so that one prior fits all coefficients.
constexpr double kPrefillUnit = 512;
constexpr double kDecodeUnit = 64;
constexpr double kContextUnit = 65536;

constexpr double kMemory = 256;        // steps after which an observation counts 1/e
constexpr double kPriorVariance = 1;   // of a coefficient, seconds squared
constexpr double kNoise = 0.05;        // of a measurement, relative
constexpr double kClip = 3;            // residuals beyond this many scales are clipped
constexpr double kAverageRate = 0.05;  // of the moving averages
constexpr double kUnseen = 3;          // steps' worth of a precision before its own fit is used
constexpr double kFp8Ratio = 0.6;
constexpr double kShortest = 1e-6;

}  // namespace

StepCostModel::StepCostModel() {
  for (int i = 0; i < kSize; ++i) {
    covariance_[i][i] = kPriorVariance;
  }
}

StepCostModel::Vector StepCostModel::Encode(const StepFeatures& step, double fp8_fraction) {
  const std::array<double, kFeatures> x = {1.0,
                                           static_cast<double>(step.prefill_tokens) / kPrefillUnit,
                                           static_cast<double>(step.decode_sequences) / kDecodeUnit,
                                           static_cast<double>(step.context_tokens) / kContextUnit};
  Vector encoded{};
  for (int i = 0; i < kFeatures; ++i) {
    encoded[i] = (1.0 - fp8_fraction) * x[i];
    encoded[kFeatures + i] = fp8_fraction * x[i];
  }
  return encoded;
}

double StepCostModel::Predict(const StepFeatures& step, double fp8_fraction) const {
  const Vector x16 = Encode(step, 0.0);
  const Vector x8 = Encode(step, 1.0);
  double fp16 = 0.0;
  double fp8 = 0.0;
  for (int i = 0; i < kSize; ++i) {
    fp16 += theta_[i] * x16[i];
    fp8 += theta_[i] * x8[i];
  }
  if (weight_fp8_ < kUnseen) {
    fp8 = kFp8Ratio * fp16;
  } else if (weight_fp16_ < kUnseen) {
    fp16 = fp8 / kFp8Ratio;
  }
  return std::max((1.0 - fp8_fraction) * fp16 + fp8_fraction * fp8, 0.0);
}

void StepCostModel::Observe(const StepFeatures& step, double fp8_fraction, double seconds) {
  seconds = std::max(seconds, kShortest);
  const double error = std::abs(Predict(step, fp8_fraction) - seconds) / seconds;

  // Relative least squares: dividing the equation by what was measured makes the noise of a 2 ms
  // decode and of a 1 s prefill count alike.
  Vector x = Encode(step, fp8_fraction);
  double residual = 1.0;
  for (int i = 0; i < kSize; ++i) {
    x[i] /= seconds;
    residual -= theta_[i] * x[i];
  }
  // Kalman update of (theta, covariance) for a scalar measurement.
  Vector px{};
  double variance = kNoise * kNoise;
  for (int i = 0; i < kSize; ++i) {
    for (int j = 0; j < kSize; ++j) {
      px[i] += covariance_[i][j] * x[j];
    }
    variance += x[i] * px[i];
  }
  // A residual beyond what noise and ignorance explain is clipped. Should it last, because the
  // machine has changed, the scale of the noise grows until it counts.
  const double limit = kClip * std::sqrt(variance + noise_ * noise_);
  residual = std::clamp(residual, -limit, limit);
  noise_ += kAverageRate * (std::min(std::abs(residual), 1.0) - noise_);
  relative_error_ += kAverageRate * (std::min(error, 1.0) - relative_error_);
  for (int i = 0; i < kSize; ++i) {
    theta_[i] += px[i] / variance * residual;
    for (int j = 0; j < kSize; ++j) {
      covariance_[i][j] -= px[i] * px[j] / variance;
    }
  }

  // Forgetting widens what is not observed without end; the prior is the most it may become.
  // Scaling row and column alike keeps the matrix positive definite.
  const double widen = 1.0 / (1.0 - 1.0 / kMemory);
  for (int i = 0; i < kSize; ++i) {
    for (int j = 0; j < kSize; ++j) {
      covariance_[i][j] *= widen;
    }
  }
  for (int i = 0; i < kSize; ++i) {
    if (covariance_[i][i] > kPriorVariance) {
      const double scale = std::sqrt(kPriorVariance / covariance_[i][i]);
      for (int j = 0; j < kSize; ++j) {
        covariance_[i][j] *= scale;
        covariance_[j][i] *= scale;
      }
    }
  }

  weight_fp16_ += 1.0 - fp8_fraction;
  weight_fp8_ += fp8_fraction;
}

}  // namespace dualfp
