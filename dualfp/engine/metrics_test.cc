#include "dualfp/engine/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace dualfp {
namespace {

TEST(Histogram, CountsAndInterpolates) {
  Histogram histogram({1.0, 2.0, 4.0});
  for (const double value : {0.5, 1.0, 1.5, 3.0, 3.0, 3.0, 100.0}) {
    histogram.Observe(value);
  }
  const Histogram::Snapshot snapshot = histogram.Read();
  EXPECT_EQ(snapshot.counts, (std::vector<uint64_t>{2, 1, 3, 1})) << "bounds are inclusive";
  EXPECT_EQ(snapshot.count, 7u);
  EXPECT_DOUBLE_EQ(snapshot.sum, 112.0);
  EXPECT_DOUBLE_EQ(snapshot.Quantile(2.0 / 7), 1.0);
  EXPECT_NEAR(snapshot.Quantile(4.5 / 7), 3.0, 1e-9);
  EXPECT_DOUBLE_EQ(snapshot.Quantile(1.0), 4.0);
  EXPECT_TRUE(std::isnan(Histogram({1.0}).Read().Quantile(0.5)));
}

}  // namespace
}  // namespace dualfp
