// Arrivals, traces and lengths: against the distributions that they claim.

#include "bench/serving/workload/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "bench/serving/workload/synthetic_trace.h"
#include "bench/statistics.h"
#include "dualfp/base/error.h"

namespace dualfp {
namespace {

std::vector<double> Gaps(const Workload& workload) {
  std::vector<double> gaps;
  for (size_t i = 1; i < workload.size(); ++i) {
    gaps.push_back(workload[i].at - workload[i - 1].at);
  }
  return gaps;
}

double Variation(const std::vector<double>& values) {
  const Summary summary = Summarize(values);
  return summary.deviation / summary.mean;
}

TEST(ArrivalsTest, HaveTheRateAndTheVariationAskedFor) {
  for (const double burstiness : {0.25, 1.0, 4.0, 100.0}) {
    Workload workload(20001);
    SpreadArrivals(&workload, 7.0, burstiness, 5);
    EXPECT_EQ(workload.front().at, 0);
    EXPECT_NEAR(MeanRate(workload), 7.0, 1e-9);
    // Four standard errors of a Gamma sample's variation are below 6 % here.
    EXPECT_NEAR(Variation(Gaps(workload)) * std::sqrt(burstiness), 1.0, 0.06) << burstiness;
  }
}

TEST(ArrivalsTest, AtOnceAndRepeatable) {
  Workload workload(10);
  SpreadArrivals(&workload, kAllAtOnce, 1, 0);
  EXPECT_EQ(workload.back().at, 0);
  EXPECT_EQ(MeanRate(workload), 0);
  Workload again(10);
  Workload other(10);
  SpreadArrivals(&workload, 3, 1, 1);
  SpreadArrivals(&again, 3, 1, 1);
  SpreadArrivals(&other, 3, 1, 2);
  EXPECT_EQ(workload[5].at, again[5].at);
  EXPECT_NE(workload[5].at, other[5].at);
}

TEST(RandomWorkloadTest, LengthsFillTheRange) {
  const Workload workload = RandomWorkload(2000, {100, 40, 0.5}, 3);
  int64_t shortest = 1000;
  int64_t longest = 0;
  for (const PlannedRequest& request : workload) {
    shortest = std::min(shortest, request.prompt_tokens);
    longest = std::max(longest, request.prompt_tokens);
    EXPECT_GE(request.output_tokens, 20);
    EXPECT_LE(request.output_tokens, 60);
  }
  EXPECT_EQ(shortest, 50);
  EXPECT_EQ(longest, 150);
  EXPECT_EQ(RandomWorkload(5, {1, 1, 1.0}, 0)[0].prompt_tokens, 1);
}

struct Published {
  const char* name;
  double prompt_median, prompt_p90, output_median, output_p90;
};

class SyntheticTraceTest : public ::testing::TestWithParam<Published> {};

TEST_P(SyntheticTraceTest, HasThePublishedQuantiles) {
  const Published& published = GetParam();
  const SyntheticTrace* trace = FindSyntheticTrace(published.name);
  ASSERT_NE(trace, nullptr);
  for (const int64_t count : {500, 20000}) {
    for (const uint64_t seed : {1, 2, 3}) {
      std::vector<double> prompts, outputs;
      double last = 0;
      for (const PlannedRequest& request : Synthesize(*trace, count, seed)) {
        prompts.push_back(static_cast<double>(request.prompt_tokens));
        outputs.push_back(static_cast<double>(request.output_tokens));
        EXPECT_GE(request.at, last);
        last = request.at;
      }
      ASSERT_EQ(static_cast<int64_t>(prompts.size()), count);
      // Stratified: off by one stratum at most, and by the rounding to whole tokens.
      const double tolerance = count > 1000 ? 0.002 : 0.02;
      const auto expect_near = [&](std::vector<double>& sample, double q, double wanted) {
        EXPECT_NEAR(InterpolatedQuantile(sample, q), wanted, 0.5 + tolerance * wanted)
            << published.name;
      };
      expect_near(prompts, 0.5, published.prompt_median);
      expect_near(prompts, 0.9, published.prompt_p90);
      expect_near(outputs, 0.5, published.output_median);
      expect_near(outputs, 0.9, published.output_p90);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Azure, SyntheticTraceTest,
                         ::testing::Values(Published{"azure-conv-2023", 1020, 2734, 129, 424},
                                           Published{"azure-conv-2024", 1030, 3488, 38, 325},
                                           Published{"azure-code", 1469, 5188, 13, 55}));

TEST(SyntheticTraceTest, ArrivalsAreOfTheirKind) {
  constexpr int64_t kCount = 100000;
  for (const SyntheticTrace& trace : SyntheticTraces()) {
    const Workload workload = Synthesize(trace, kCount, 11);
    EXPECT_NEAR(MeanRate(workload) / trace.rate, 1, 0.15) << trace.name;
    const double variation = Variation(Gaps(workload));
    switch (trace.arrivals) {
      case ArrivalProcess::kGamma:
        EXPECT_NEAR(variation, 2.1, 0.1);
        break;
      case ArrivalProcess::kOnOff:
        EXPECT_GT(variation, 3);
        break;
      case ArrivalProcess::kModulatedPoisson: {
        EXPECT_GT(variation, 1.02);
        EXPECT_LT(variation, 1.4);
        // Minutes differ far more than Poisson's counts would, and each resembles the next.
        std::vector<double> counts(static_cast<size_t>(workload.back().at / 60));
        for (const PlannedRequest& request : workload) {
          const auto minute = static_cast<size_t>(request.at / 60);
          if (minute < counts.size()) {
            counts[minute] += 1;
          }
        }
        const Summary summary = Summarize(counts);
        EXPECT_GT(summary.deviation * summary.deviation / summary.mean, 5);
        double covariance = 0;
        for (size_t i = 1; i < counts.size(); ++i) {
          covariance += (counts[i] - summary.mean) * (counts[i - 1] - summary.mean);
        }
        EXPECT_GT(covariance / static_cast<double>(counts.size() - 1) /
                      (summary.deviation * summary.deviation),
                  0.5);
      }
    }
  }
}

TEST(ScalingTest, DilationKeepsTheRequestsAndThinningTheTime) {
  const Workload trace = Synthesize(*FindSyntheticTrace("azure-conv-2024"), 20000, 1);
  Workload fast = trace;
  DilateTime(&fast, 4);
  EXPECT_EQ(fast.size(), trace.size());
  EXPECT_NEAR(MeanRate(fast), 4 * MeanRate(trace), 1e-6);
  EXPECT_NEAR(Variation(Gaps(fast)), Variation(Gaps(trace)), 1e-9);
  Workload thin = trace;
  Thin(&thin, 0.25, 9);
  EXPECT_NEAR(static_cast<double>(thin.size()), 5000, 4 * std::sqrt(20000 * 0.25 * 0.75));
  EXPECT_NEAR(thin.back().at, trace.back().at, 0.01 * trace.back().at);
}

TEST(FitContextTest, ShortensOutputsToHalfThenPrompts) {
  Workload workload = {{0, 100, 20}, {0, 5000, 100}, {0, 10, 5000}, {0, 5000, 5000}};
  EXPECT_EQ(FitContext(&workload, 1000), 3);
  EXPECT_EQ(workload[0].prompt_tokens + workload[0].output_tokens, 120);
  EXPECT_EQ(workload[1].prompt_tokens, 900);
  EXPECT_EQ(workload[1].output_tokens, 100);
  EXPECT_EQ(workload[2].prompt_tokens, 10);
  EXPECT_EQ(workload[2].output_tokens, 990);
  EXPECT_EQ(workload[3].prompt_tokens, 500);
  EXPECT_EQ(workload[3].output_tokens, 500);
}

class TraceFileTest : public ::testing::Test {
 protected:
  Workload Load(const std::string& text) {
    const auto path = std::filesystem::path(::testing::TempDir()) / "bench_trace.csv";
    std::ofstream(path) << text;
    return LoadTrace(path);
  }
  std::string Error(const std::string& text) {
    try {
      Load(text);
    } catch (const dualfp::Error& error) {
      return error.what();
    }
    return "";
  }
};

TEST_F(TraceFileTest, ReadsAzuresColumnsInAnyOrder) {
  const Workload workload = Load(
      "GeneratedTokens,TIMESTAMP,ContextTokens\n"
      "44,2023-11-16 23:59:59.5000000,374\n"
      "109,2023-11-17 00:00:01.25,396\r\n"
      "7,2024-03-01T00:00:00Z,12\n");
  ASSERT_EQ(workload.size(), 3u);
  EXPECT_EQ(workload[0].at, 0);
  EXPECT_EQ(workload[0].prompt_tokens, 374);
  EXPECT_EQ(workload[0].output_tokens, 44);
  EXPECT_DOUBLE_EQ(workload[1].at, 1.75);
  // 16 November 2023 to 1 March 2024, a leap year: 14 + 31 + 31 + 29 days after the 17th's 00:00.
  EXPECT_NEAR(workload[2].at, (14 + 31 + 31 + 29) * 86400.0 + 0.5, 1e-6);
}

TEST_F(TraceFileTest, ReadsPlainNumbersAndSorts) {
  const Workload workload = Load("12.5, 10, 20\n10, 1, 0\n\n11,5,6");
  ASSERT_EQ(workload.size(), 3u);
  EXPECT_EQ(workload[1].at, 1);
  EXPECT_EQ(workload[2].prompt_tokens, 10);
  EXPECT_EQ(workload[0].output_tokens, 1);  // an answer has a token
}

TEST_F(TraceFileTest, ErrorsNameTheLine) {
  EXPECT_THAT(Error("1,2,3\nx,2,3\n"), ::testing::HasSubstr("line 2: expected a time, got \"x\""));
  EXPECT_THAT(Error("1,2,3\n2,-2,3\n"),
              ::testing::HasSubstr("line 2: expected a number of prompt"));
  EXPECT_THAT(Error("1,2\n"), ::testing::HasSubstr("line 1: expected a number of output"));
  EXPECT_THAT(Error("timestamp,prompt_tokens\n"), ::testing::HasSubstr("line 1: expected the col"));
  EXPECT_THAT(Error(""), ::testing::HasSubstr("no requests"));
  EXPECT_THAT(Error("nan,1,1\n"), ::testing::HasSubstr("line 1"));
  EXPECT_THAT(Error("2023-13-01 00:00:00,1,1\n"), ::testing::HasSubstr("expected a time"));
}

}  // namespace
}  // namespace dualfp
