#include "dualfp/quant/bootstrap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "dualfp/base/error.h"

namespace dualfp {
namespace {

TEST(Statistics, QuantileIsAnElementOfTheSample) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) {
    values.push_back(i);
  }
  EXPECT_EQ(Quantile(values, 0.99), 99);
  EXPECT_EQ(Quantile(values, 0.07), 7);
  EXPECT_EQ(Quantile(values, 0.991), 100);
  EXPECT_EQ(Quantile(values, 1.0), 100);
  EXPECT_EQ(Quantile({5.0}, 0.01), 5);
  EXPECT_THROW(Quantile({}, 0.5), Error);
  EXPECT_THROW(Quantile({1.0}, 0.0), Error);
}

TEST(GroupBootstrap, RejectsWhatDoesNotFit) {
  EXPECT_THROW(GroupBootstrap({}, 1), Error);
  EXPECT_THROW(GroupBootstrap({3, 0}, 1), Error);
  const GroupBootstrap bootstrap({2, 3}, 1);
  const std::vector<double> four(4, 1.0);
  EXPECT_THROW(bootstrap.MeanOf(four), Error);
  EXPECT_THROW(bootstrap.QuantileOf(four, 0.5), Error);
}

TEST(GroupBootstrap, IsExactWhereNothingVaries) {
  const GroupBootstrap bootstrap({2, 3}, 1);
  const std::vector<double> values(5, 2.5);
  for (const Estimate& e : {bootstrap.MeanOf(values), bootstrap.QuantileOf(values, 0.99)}) {
    EXPECT_EQ(e.value, 2.5);
    EXPECT_EQ(e.low, 2.5);
    EXPECT_EQ(e.high, 2.5);
  }
}

TEST(GroupBootstrap, TheSameSeedGivesTheSameInterval) {
  const std::vector<double> values = {1, 4, 2, 8, 5, 7, 1, 3};
  const std::vector<int64_t> groups(4, 2);
  const Estimate first = GroupBootstrap(groups, 7).MeanOf(values);
  const Estimate again = GroupBootstrap(groups, 7).MeanOf(values);
  EXPECT_EQ(first.low, again.low);
  EXPECT_EQ(first.high, again.high);
  EXPECT_LT(first.low, first.value);
  EXPECT_GT(first.high, first.value);
}

// Against theory: the mean of n independent values has a standard error of sigma / sqrt(n).
TEST(GroupBootstrap, IntervalOfIndependentNormalsIsTheTextbooks) {
  constexpr int kValues = 4000;
  std::mt19937_64 random(3);
  std::normal_distribution<double> normal(10, 2);
  std::vector<double> values(kValues);
  for (double& value : values) {
    value = normal(random);
  }
  const Estimate mean = GroupBootstrap(std::vector<int64_t>(kValues, 1), 1, 4000).MeanOf(values);
  const double expected = 1.96 * 2 / std::sqrt(kValues);
  EXPECT_NEAR((mean.high - mean.low) / 2, expected, 0.1 * expected);
}

// Tokens of a group that agree with each other carry no more than one: the interval must be that of
// the groups' number, ten times wider here than if tokens were taken for independent.
TEST(GroupBootstrap, GroupsAreTheUnitOfResampling) {
  constexpr int kGroups = 200;
  constexpr int kSize = 100;
  std::mt19937_64 random(5);
  std::normal_distribution<double> normal(0, 1);
  std::vector<double> values;
  for (int group = 0; group < kGroups; ++group) {
    values.insert(values.end(), kSize, normal(random));
  }
  const Estimate mean =
      GroupBootstrap(std::vector<int64_t>(kGroups, kSize), 1, 4000).MeanOf(values);
  const double expected = 1.96 / std::sqrt(kGroups);
  EXPECT_NEAR((mean.high - mean.low) / 2, expected, 0.2 * expected);
}

// The walk down the sorted list must find what sorting each resample by itself finds.
TEST(GroupBootstrap, QuantileIntervalIsThatOfExplicitResamples) {
  const std::vector<int64_t> sizes = {3, 1, 4, 2};
  const std::vector<double> values = {0.5, 9, 2, 7, 1, 1, 3, 8, 6, 4};
  constexpr uint64_t kSeed = 11;
  constexpr int kResamples = 200;
  for (const double q : {0.1, 0.5, 0.9, 0.99, 1.0}) {
    std::mt19937_64 random(kSeed);
    std::vector<double> replicates;
    for (int r = 0; r < kResamples; ++r) {
      std::vector<double> sample;
      for (size_t i = 0; i < sizes.size(); ++i) {
        const size_t group = random() % sizes.size();
        int64_t begin = 0;
        for (size_t g = 0; g < group; ++g) {
          begin += sizes[g];
        }
        sample.insert(sample.end(), values.begin() + begin, values.begin() + begin + sizes[group]);
      }
      replicates.push_back(Quantile(sample, q));
    }
    const Estimate estimate = GroupBootstrap(sizes, kSeed, kResamples).QuantileOf(values, q);
    EXPECT_EQ(estimate.value, Quantile(values, q));
    EXPECT_EQ(estimate.low, Quantile(replicates, 0.025)) << q;
    EXPECT_EQ(estimate.high, Quantile(replicates, 0.975)) << q;
  }
}

}  // namespace
}  // namespace dualfp
