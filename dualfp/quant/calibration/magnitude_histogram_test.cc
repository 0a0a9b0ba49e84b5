#include "dualfp/quant/calibration/magnitude_histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace dualfp {
namespace {

// With a tail: a tenth of a percent is ten times as large.
std::vector<float> Values(int count) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (int i = 0; i < count; ++i) {
    values[i] = normal(random) * (i % 1000 == 0 ? 10.0f : 1.0f);
  }
  return values;
}

TEST(MagnitudeHistogramTest, LargestMagnitudeIsExact) {
  MagnitudeHistogram histogram;
  const std::vector<float> values = {0.0f, -3.7f, 1.25f, 3.6999f};
  histogram.Add(values.data(), 4);
  EXPECT_EQ(histogram.amax(), 3.7f);
  EXPECT_EQ(histogram.count(), 4);
  const float scale = histogram.Scale(ScaleObserver::kAmax, 1.0);
  EXPECT_EQ(scale, 3.7f / 448.0f);
  EXPECT_EQ(histogram.ClippedShare(scale), 0.0);
}

TEST(MagnitudeHistogramTest, NothingButZerosHaveScaleOne) {
  MagnitudeHistogram histogram;
  EXPECT_EQ(histogram.Scale(ScaleObserver::kMse, 1.0), 1.0f);
  const float zeros[2] = {0.0f, -0.0f};
  histogram.Add(zeros, 2);
  for (const ScaleObserver observer :
       {ScaleObserver::kAmax, ScaleObserver::kPercentile, ScaleObserver::kMse}) {
    EXPECT_EQ(histogram.Scale(observer, 0.999), 1.0f);
  }
  EXPECT_EQ(histogram.ClippedShare(1.0f), 0.0);
}

TEST(MagnitudeHistogramTest, PercentilesAreThoseOfTheSortedValues) {
  const std::vector<float> values = Values(100'000);
  MagnitudeHistogram histogram;
  histogram.Add(values.data(), static_cast<int64_t>(values.size()));
  std::vector<float> sorted = values;
  std::transform(sorted.begin(), sorted.end(), sorted.begin(),
                 [](float x) { return std::fabs(x); });
  std::sort(sorted.begin(), sorted.end());
  for (const double share : {0.5, 0.9, 0.999, 0.9999}) {
    const float exact = sorted[static_cast<size_t>(share * static_cast<double>(sorted.size()))];
    const float limit = 448.0f * histogram.Scale(ScaleObserver::kPercentile, share);
    EXPECT_GE(limit, exact);
    EXPECT_LE(limit, exact * (1.0f + 1.0f / 64.0f));
    EXPECT_LE(histogram.ClippedShare(limit / 448.0f), 1.0 - share + 1e-9);
  }
}

TEST(MagnitudeHistogramTest, LeastSquaredErrorKeepsAnOutlierThatOutweighsTheRest) {
  std::vector<float> values = Values(100'000);
  values[0] = 1e6f;
  MagnitudeHistogram histogram;
  histogram.Add(values.data(), static_cast<int64_t>(values.size()));
  EXPECT_EQ(histogram.Scale(ScaleObserver::kMse, 1.0), 1e6f / 448.0f);
}

TEST(MagnitudeHistogramTest, InfinitiesAndNansAreLeftOut) {
  MagnitudeHistogram histogram;
  const float values[3] = {std::numeric_limits<float>::infinity(),
                           std::numeric_limits<float>::quiet_NaN(), 2.0f};
  histogram.Add(values, 3);
  EXPECT_EQ(histogram.count(), 1);
  EXPECT_EQ(histogram.amax(), 2.0f);
}

}  // namespace
}  // namespace dualfp
