// Random mixes of requests on engines of random sizes, against what each request gets alone.

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "dualfp/engine/engine_core.h"
#include "dualfp/engine/testing/harness.h"

namespace dualfp {
namespace {

using testing::Collected;
using testing::CoreHarness;
using testing::ExpectedTokens;
using testing::SmallInfo;
using testing::UniformTag;

// Random controllers: any plan at any step, which no request may notice whose precision is pinned.
class RandomController : public PrecisionController {
 public:
  explicit RandomController(uint64_t seed) : random_(seed) {}
  void Choose(const StepSummary& /*step*/, PrecisionPlan* plan) override {
    const bool uniform = random_() % 2 == 0;
    const bool fp8 = random_() % 2 == 0;
    for (int layer = 0; layer < static_cast<int>(plan->layers.size()); ++layer) {
      plan->layers[layer] =
          (uniform ? fp8 : random_() % 2 == 0) ? Precision::kFp8 : Precision::kExact;
    }
  }
  std::string_view name() const override { return "random"; }

 private:
  std::mt19937_64 random_;
};

Request RandomRequest(std::mt19937* random, const RunnerInfo& info) {
  const auto below = [&](int64_t bound) {
    return static_cast<int>((*random)() % static_cast<uint64_t>(bound));
  };
  const int64_t capacity = std::min(info.max_model_len, info.num_blocks * info.block_size);
  const auto prompt = static_cast<int>(1 + below(std::max<int64_t>(1, capacity * 2 / 3)));
  Request request;
  // Few beginnings, so that prefixes are shared.
  const int start = below(3);
  const int common = below(prompt + 1);
  for (int i = 0; i < prompt; ++i) {
    request.prompt.push_back(i < common ? (start * 11 + i) % 90 : below(info.vocab_size));
  }
  SamplingParams& sampling = request.sampling;
  const int64_t room =
      std::min(info.max_model_len - prompt, info.num_blocks * info.block_size - prompt + 1);
  sampling.max_tokens = 1 + below(std::min<int64_t>(room, 30));
  sampling.n = below(4) == 0 ? 1 + below(4) : 1;
  sampling.seed = (*random)();
  sampling.temperature = below(4) == 0 ? 0.0f : 0.8f;
  sampling.top_p = below(2) == 0 ? 1.0f : 0.9f;
  sampling.repetition_penalty = below(3) == 0 ? 1.2f : 1.0f;
  sampling.min_tokens = below(3) == 0 ? below(*sampling.max_tokens + 1) : 0;
  if (below(6) == 0) {
    sampling.prompt_logprobs = below(3);
  }
  if (below(6) == 0) {
    sampling.logprobs = below(3);
  }
  request.priority = below(3);
  request.cache_salt = below(5) == 0 ? "salt" : "";
  return request;
}

// How the runner works; no request may notice.
struct Pipeline {
  int steps_in_flight = 1;
  int draft_tokens = 0;
};

struct WorkloadCounts {
  uint64_t preemptions = 0;
  uint64_t cache_hits = 0;
  uint64_t copies = 0;
  uint64_t cancelled = 0;
  uint64_t ahead = 0;    // rows whose token was not known when their step was launched
  uint64_t drafted = 0;  // tokens
};

// Any mix of requests on any size of engine: every step leaves all accounts in order, everything
// ends, nothing leaks, and each request gets the tokens that it would get alone.
void RunRandomWorkload(int seed, const Pipeline& pipeline, WorkloadCounts* counts) {
  std::mt19937 random(seed);
  const auto below = [&](uint64_t bound) { return static_cast<int>(random() % bound); };
  RunnerInfo info = SmallInfo();
  info.block_size = 1 + below(6);
  info.num_blocks = 4 + below(50);
  info.max_sequences = 1 + below(12);
  info.max_rows = info.max_sequences + below(40);
  info.max_logit_rows = info.max_sequences + below(10);
  info.max_steps_in_flight = pipeline.steps_in_flight;
  info.max_draft_tokens = pipeline.draft_tokens;
  EngineConfig config;
  config.enable_prefix_caching = below(4) != 0;
  config.eos_token_ids = {3};
  const bool adaptive = below(3) == 0;
  // Of rows that compute prompts, and of those that generate.
  const auto precision = [&] { return below(2) == 0 ? Precision::kFp8 : Precision::kExact; };
  const Precision prefill = precision();
  const Precision decode = precision();
  std::shared_ptr<PrecisionController> controller;
  if (adaptive) {
    controller = std::make_shared<RandomController>(random());
  } else {
    controller = MakePhasedController(PrecisionPlan::Uniform(info.num_layers, prefill),
                                      PrecisionPlan::Uniform(info.num_layers, decode));
  }
  CoreHarness harness(config, info, controller);
  harness.runner().before = [&](const StepBatch& batch) {
    counts->copies += batch.copies().size();
    counts->ahead += std::ranges::count_if(batch.token_sources(), [](int32_t s) { return s >= 0; });
  };

  struct Run {
    Request request;
    Collected* result;
    bool cancelled = false;
  };
  std::vector<Run> runs;
  int to_submit = 60;
  for (int step = 0; to_submit > 0 || !harness.core().idle(); ++step) {
    ASSERT_LT(step, 50000);
    while (to_submit > 0 && below(4) == 0) {
      Request request = RandomRequest(&random, info);
      if (below(2) == 0) {
        request.precision = below(2) == 0 ? PrecisionPin::kExact : PrecisionPin::kFp8;
      }
      runs.push_back({request, harness.Submit(request)});
      --to_submit;
    }
    if (!runs.empty() && below(30) == 0) {
      Run& run = runs[below(runs.size())];
      run.cancelled |= !run.result->finished;
      harness.core().Cancel(run.result->id);
    }
    harness.core().Step();
    ASSERT_NO_THROW(harness.core().CheckInvariants());
  }
  EXPECT_EQ(harness.core().pool().num_free(), info.num_blocks);
  EXPECT_EQ(harness.core().num_in_flight(), 0);
  counts->drafted += harness.runner().num_drafted();
  counts->preemptions += harness.metrics().num_preemptions_total.value();
  counts->cache_hits += harness.metrics().prefix_cache_hits_total.value();
  for (const Run& run : runs) {
    counts->cancelled += run.cancelled;
    ASSERT_TRUE(run.result->finished);
    EXPECT_EQ(run.result->violation, "");
    EXPECT_EQ(run.result->error, "");
    const PrecisionPin pin = run.request.precision;
    if (adaptive && pin == PrecisionPin::kAuto) {
      continue;  // not reproducible
    }
    const auto tag = [&](Precision unpinned) {
      return UniformTag(info, pin == PrecisionPin::kExact ? Precision::kExact
                              : pin == PrecisionPin::kFp8 ? Precision::kFp8
                                                          : unpinned);
    };
    for (int choice = 0; choice < run.request.sampling.n; ++choice) {
      std::vector<int32_t> expected =
          ExpectedTokens(run.request, choice, *run.request.sampling.seed, tag(decode), info,
                         config.eos_token_ids, tag(prefill));
      const auto& tokens = run.result->choices[choice].tokens;
      if (run.cancelled) {
        ASSERT_LE(tokens.size(), expected.size());
        expected.resize(tokens.size());
      }
      EXPECT_EQ(tokens, expected) << "request " << run.result->id << " choice " << choice;
    }
    if (!run.cancelled) {
      const Usage& usage = run.result->usage;
      EXPECT_EQ(usage.cached_tokens + std::accumulate(usage.prompt_by_precision.begin(),
                                                      usage.prompt_by_precision.end(), int64_t{0}),
                usage.prompt_tokens);
      EXPECT_EQ(std::accumulate(usage.completion_by_precision.begin(),
                                usage.completion_by_precision.end(), int64_t{0}),
                usage.completion_tokens);
      EXPECT_EQ(run.result->prompt_logprobs.size(),
                run.request.sampling.prompt_logprobs ? run.request.prompt.size() : 0);
    }
  }
}

class RandomWorkload : public ::testing::TestWithParam<int> {
 protected:
  void Run(const Pipeline& pipeline, WorkloadCounts* counts) {
    for (int seed = 100 * GetParam(); seed < 100 * GetParam() + 50; ++seed) {
      SCOPED_TRACE(seed);
      RunRandomWorkload(seed, pipeline, counts);
      if (HasFatalFailure()) {
        return;
      }
    }
    // The workloads reach what they are meant to test.
    EXPECT_GT(counts->preemptions, 100u);
    EXPECT_GT(counts->cache_hits, 1000u);
    EXPECT_GT(counts->copies, 100u);
    EXPECT_GT(counts->cancelled, 20u);
  }
};

TEST_P(RandomWorkload, KeepsItsAccountsAndItsPromises) {
  WorkloadCounts counts;
  Run({}, &counts);
  EXPECT_EQ(counts.ahead, 0u);
}

TEST_P(RandomWorkload, IsTheSameWithTwoStepsInFlight) {
  WorkloadCounts counts;
  Run({.steps_in_flight = 2}, &counts);
  EXPECT_GT(counts.ahead, 1000u);
}

TEST_P(RandomWorkload, IsTheSameWithSeveralTokensAStep) {
  WorkloadCounts counts;
  Run({.draft_tokens = 3}, &counts);
  EXPECT_GT(counts.drafted, 1000u);
}

TEST_P(RandomWorkload, IsTheSameWithBoth) {
  WorkloadCounts counts;
  Run({.steps_in_flight = 2, .draft_tokens = 2}, &counts);
  EXPECT_GT(counts.drafted, 1000u);
  EXPECT_GT(counts.ahead, 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomWorkload, ::testing::Range(0, 8));

}  // namespace
}  // namespace dualfp
