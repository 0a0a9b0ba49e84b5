#include "dualfp/quant/calibration/magnitude_histogram.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp {
namespace {

constexpr size_t kBins = 0x7f80;  // finite magnitudes
constexpr int kBf16Shift = 16;
constexpr std::array kObserverNames = {std::string_view("amax"), std::string_view("percentile"),
                                       std::string_view("mse")};
// Scales that the search tries: amax / 448 * 2^(-i / kSearchSteps).
constexpr int kSearchScales = 96;
constexpr float kSearchSteps = 16.0f;

// The middle of a bin.
float MagnitudeOf(size_t bin) {
  return std::bit_cast<float>(static_cast<uint32_t>(bin) << kBf16Shift | 0x8000u);
}

}  // namespace

std::optional<ScaleObserver> ParseScaleObserver(std::string_view name) {
  const auto* const found = std::find(kObserverNames.begin(), kObserverNames.end(), name);
  if (found == kObserverNames.end()) {
    return std::nullopt;
  }
  return static_cast<ScaleObserver>(found - kObserverNames.begin());
}

void MagnitudeHistogram::Add(const float* values, int64_t n) {
  bins_.resize(kBins);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu;
    const size_t bin = magnitude >> kBf16Shift;
    if (bin < kBins) {
      ++bins_[bin];
      ++count_;
      amax_ = std::max(amax_, std::bit_cast<float>(magnitude));
    }
  }
}

double MagnitudeHistogram::ClippedShare(float scale) const {
  // 448 times amax / 448 may round to less than amax.
  if (count_ == 0 || amax_ <= scale * kE4m3Max * (1 + 1e-6f)) {
    return 0;
  }
  int64_t beyond = 0;
  for (size_t bin = kBins; bin-- > 0 && MagnitudeOf(bin) > scale * kE4m3Max;) {
    beyond += bins_[bin];
  }
  return static_cast<double>(beyond) / static_cast<double>(count_);
}

double MagnitudeHistogram::SquaredError(float scale) const {
  double error = 0;
  for (size_t bin = 0; bin < kBins; ++bin) {
    if (bins_[bin] > 0) {
      const float value = MagnitudeOf(bin);
      const double d = value - scale * E4m3ToFloat(FloatToE4m3(value / scale));
      error += static_cast<double>(bins_[bin]) * d * d;
    }
  }
  return error;
}

float MagnitudeHistogram::Scale(ScaleObserver observer, double share) const {
  const float largest = amax_ / kE4m3Max;
  if (largest == 0) {
    return 1.0f;
  }
  if (observer == ScaleObserver::kPercentile) {
    const double allowed = (1.0 - share) * static_cast<double>(count_);
    int64_t beyond = 0;
    for (size_t bin = kBins; bin-- > 0;) {
      if (static_cast<double>(beyond + bins_[bin]) > allowed) {
        // The bin's upper end, so that none of it is clipped.
        const float upper = std::bit_cast<float>(static_cast<uint32_t>(bin + 1) << kBf16Shift);
        return std::min(largest, upper / kE4m3Max);
      }
      beyond += bins_[bin];
    }
  }
  float best = largest;
  if (observer == ScaleObserver::kMse) {
    double least = SquaredError(largest);
    for (int i = 1; i < kSearchScales; ++i) {
      const float scale = largest * std::exp2(-static_cast<float>(i) / kSearchSteps);
      const double error = scale > 0 ? SquaredError(scale) : least;
      if (error < least) {
        least = error;
        best = scale;
      }
    }
  }
  return best;
}

}  // namespace dualfp
