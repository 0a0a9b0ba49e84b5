#include "bench/statistics.h"

#include <gtest/gtest.h>

namespace dualfp {
namespace {

TEST(StatisticsTest, InterpolatesAsNumpy) {
  std::vector<double> values = {4, 1, 3, 2};
  EXPECT_DOUBLE_EQ(InterpolatedQuantile(values, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(InterpolatedQuantile(values, 0.9), 3.7);
  EXPECT_DOUBLE_EQ(InterpolatedQuantile(values, 1), 4);
  const Summary summary = Summarize({2, 4});
  EXPECT_DOUBLE_EQ(summary.mean, 3);
  EXPECT_DOUBLE_EQ(summary.deviation, 1);
  EXPECT_TRUE(std::isnan(Summarize({}).p99));
}

TEST(StatisticsTest, MedianOfAnEvenCountLiesBetween) {
  EXPECT_DOUBLE_EQ(Median({4, 1, 3, 2}), 2.5);
  EXPECT_DOUBLE_EQ(Median({7}), 7);
  EXPECT_TRUE(std::isnan(Median({})));
}

TEST(StatisticsTest, GeometricMeanKnowsTheWorst) {
  GeometricMean mean;
  EXPECT_EQ(mean.Mean(), 0);
  for (const double ratio : {2.0, 0.5, 8.0}) {
    mean.Add(ratio);
  }
  EXPECT_EQ(mean.count(), 3);
  EXPECT_NEAR(mean.Mean(), 2, 1e-12);
  EXPECT_EQ(mean.worst(), 0.5);
}

}  // namespace
}  // namespace dualfp
