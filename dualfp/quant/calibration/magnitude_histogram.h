// How often which magnitudes occur, over any number of values in constant memory, and the E4M3
// scale that suits them.

#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace dualfp {

// From which of the magnitudes seen a static scale is taken.
enum class ScaleObserver : uint8_t {
  kAmax,        // the largest: nothing is clipped
  kPercentile,  // one that a small share of values exceeds
  kMse,         // the scale of least squared error, rounding and clipping together
};

// "amax", "percentile", "mse".
std::optional<ScaleObserver> ParseScaleObserver(std::string_view name);

class MagnitudeHistogram {
 public:
  void Add(const float* values, int64_t n);

  int64_t count() const { return count_; }
  float amax() const { return amax_; }

  // A scale for E4M3: of kPercentile, `share` of the values are at most 448 times it. 1 where
  // nothing but zeros was seen.
  float Scale(ScaleObserver observer, double share) const;

  // Share of the values beyond 448 times the scale.
  double ClippedShare(float scale) const;

 private:
  double SquaredError(float scale) const;

  // By BF16 pattern of the magnitude, rounded down: exact to 1 / 128. Empty until the first value.
  std::vector<int64_t> bins_;
  int64_t count_ = 0;
  float amax_ = 0;
};

}  // namespace dualfp
