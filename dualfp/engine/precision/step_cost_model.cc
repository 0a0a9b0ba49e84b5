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

void StepWork::Add(const StepFeatures& rows, double fp8_fraction) {
  const auto add = [&](Part* part, double share) {
    part->passes = std::max(part->passes, share);
    part->prefill_tokens += share * static_cast<double>(rows.prefill_tokens);
    part->decode_sequences += share * static_cast<double>(rows.decode_sequences);
    part->context_tokens += share * static_cast<double>(rows.context_tokens);
  };
  add(&fp16, 1.0 - fp8_fraction);
  add(&fp8, fp8_fraction);
}

StepCostModel::Vector StepCostModel::Encode(const StepWork& work) {
  Vector encoded{};
  int at = 0;
  for (const StepWork::Part& part : {work.fp16, work.fp8}) {
    encoded[at++] = part.passes;
    encoded[at++] = part.prefill_tokens / kPrefillUnit;
    encoded[at++] = part.decode_sequences / kDecodeUnit;
    encoded[at++] = part.context_tokens / kContextUnit;
  }
  return encoded;
}

double StepCostModel::Predict(const StepFeatures& step, double fp8_fraction) const {
  StepWork work;
  work.Add(step, fp8_fraction);
  return Predict(work);
}

double StepCostModel::Predict(const StepWork& work) const {
  const Vector x = Encode(work);
  // Cost of the work at precision `of` by the coefficients of precision `by`: 0 = FP16, 1 = FP8.
  const auto cost = [&](int of, int by) {
    double sum = 0.0;
    for (int i = 0; i < kFeatures; ++i) {
      sum += theta_[by * kFeatures + i] * x[of * kFeatures + i];
    }
    return sum;
  };
  const double fp16 =
      weight_fp8_ >= kUnseen && weight_fp16_ < kUnseen ? cost(0, 1) / kFp8Ratio : cost(0, 0);
  const double fp8 = weight_fp8_ < kUnseen ? kFp8Ratio * cost(1, 0) : cost(1, 1);
  return std::max(fp16 + fp8, 0.0);
}

void StepCostModel::Observe(const StepFeatures& step, double fp8_fraction, double seconds) {
  StepWork work;
  work.Add(step, fp8_fraction);
  Observe(work, seconds);
}

void StepCostModel::Observe(const StepWork& work, double seconds) {
  seconds = std::max(seconds, kShortest);
  const double error = std::abs(Predict(work) - seconds) / seconds;

  // Relative least squares: dividing the equation by what was measured makes the noise of a 2 ms
  // decode and of a 1 s prefill count alike.
  Vector x = Encode(work);
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

  weight_fp16_ += work.fp16.passes;
  weight_fp8_ += work.fp8.passes;
}

}  // namespace dualfp
