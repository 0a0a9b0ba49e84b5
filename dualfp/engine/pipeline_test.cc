// Two steps in flight, and several tokens of a sequence in one step: what the random workloads
// cannot look at one by one.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <numeric>
#include <thread>

#include "dualfp/base/error.h"
#include "dualfp/engine/engine.h"
#include "dualfp/engine/engine_core.h"
#include "dualfp/engine/testing/fake_vocabulary.h"
#include "dualfp/engine/testing/harness.h"

namespace dualfp {
namespace {

using testing::Collected;
using testing::CoreHarness;
using testing::ExpectedTokens;
using testing::SmallInfo;
using testing::UniformTag;

Request MakeRequest(int prompt, int64_t max_tokens, uint64_t seed = 1) {
  Request request;
  request.prompt.resize(prompt);
  std::iota(request.prompt.begin(), request.prompt.end(), static_cast<int32_t>(seed));
  request.sampling.max_tokens = max_tokens;
  request.sampling.seed = seed;
  return request;
}

RunnerInfo TwoInFlight() {
  RunnerInfo info = SmallInfo();
  info.max_steps_in_flight = 2;
  return info;
}

RunnerInfo Drafting(int tokens) {
  RunnerInfo info = SmallInfo();
  info.max_draft_tokens = tokens;
  return info;
}

std::vector<int32_t> Alone(const Request& request, int choice = 0,
                           const std::vector<int32_t>& eos = {}) {
  return ExpectedTokens(request, choice, *request.sampling.seed,
                        UniformTag(SmallInfo(), Precision::kExact), SmallInfo(), eos);
}

TEST(TwoSteps, TheNextIsLaunchedBeforeTheTokensOfTheLastAreKnown) {
  CoreHarness harness({}, TwoInFlight());
  const Request request = MakeRequest(10, 20);
  Collected* result = harness.Submit(request);
  std::vector<int32_t> sources;
  harness.runner().before = [&](const StepBatch& batch) {
    sources.push_back(batch.token_sources()[0]);
  };
  harness.core().Step();
  EXPECT_EQ(harness.core().num_in_flight(), 1);
  EXPECT_TRUE(result->choices[0].tokens.empty());
  for (size_t tokens = 1; tokens < 20; ++tokens) {
    harness.core().Step();
    harness.core().CheckInvariants();
    EXPECT_EQ(harness.core().num_in_flight(), 1) << "one was launched, one has ended";
    EXPECT_EQ(result->choices[0].tokens.size(), tokens);
  }
  harness.Run();
  EXPECT_EQ(result->choices[0].tokens, Alone(request));
  // The length is known beforehand: nothing is computed beyond it.
  EXPECT_EQ(sources.size(), 20u);
  EXPECT_EQ(std::count(sources.begin(), sources.end(), 0), 19) << "all but the prompt";
}

TEST(TwoSteps, AStopIsSeenOneStepLate) {
  EngineConfig config;
  config.eos_token_ids = {7};
  CoreHarness harness(config, TwoInFlight(), nullptr, testing::FakeVocabulary::Ascii());
  int64_t rows = 0;
  harness.runner().before = [&](const StepBatch& batch) { rows += batch.rows(); };
  int stopped = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    const Request request = MakeRequest(5, 60, seed);
    Collected* result = harness.Submit(request);
    rows = 0;
    harness.Run();
    const auto& choice = result->choices[0];
    EXPECT_EQ(choice.tokens, Alone(request, 0, {7}));
    EXPECT_EQ(result->violation, "");
    const auto tokens = static_cast<int64_t>(choice.tokens.size());
    EXPECT_EQ(result->usage.completion_tokens, tokens);
    const bool early = choice.finish_reason == FinishReason::kStop && tokens < 60;
    EXPECT_EQ(rows + result->usage.cached_tokens, 5 + tokens - 1 + (early ? 1 : 0));
    stopped += early;
    EXPECT_EQ(harness.core().pool().num_free(), SmallInfo().num_blocks);
  }
  EXPECT_GT(stopped, 5);
}

TEST(TwoSteps, ChoicesAreBornWhenTheirFirstTokensAreKnown) {
  CoreHarness harness({}, TwoInFlight());
  Request request = MakeRequest(10, 8);
  request.sampling.n = 3;
  request.sampling.presence_penalty = 1.0f;
  Collected* result = harness.Submit(request);
  harness.Run();
  for (int choice = 0; choice < 3; ++choice) {
    EXPECT_EQ(result->choices[choice].tokens, Alone(request, choice));
  }
}

TEST(TwoSteps, CancelledInFlight) {
  CoreHarness harness({}, TwoInFlight());
  const Request request = MakeRequest(10, 30);
  const Request other = MakeRequest(9, 30, 2);
  Collected* cancelled = harness.Submit(request);
  Collected* result = harness.Submit(other);
  for (int step = 0; step < 5; ++step) {
    harness.core().Step();
  }
  ASSERT_EQ(harness.core().num_in_flight(), 1);
  harness.core().Cancel(cancelled->id);
  harness.core().CheckInvariants();
  EXPECT_TRUE(cancelled->finished);
  const size_t tokens = cancelled->choices[0].tokens.size();
  // Its blocks are another's at once.
  Collected* next = harness.Submit(request);
  harness.Run();
  EXPECT_EQ(cancelled->choices[0].tokens.size(), tokens);
  EXPECT_EQ(cancelled->violation, "");
  EXPECT_EQ(result->choices[0].tokens, Alone(other));
  EXPECT_EQ(next->choices[0].tokens, Alone(request));

  // The last request: what is in flight is waited for all the same.
  Collected* last = harness.Submit(request);
  harness.core().Step();
  harness.core().Cancel(last->id);
  EXPECT_FALSE(harness.core().idle());
  harness.Run();
  EXPECT_TRUE(harness.core().idle());
}

TEST(TwoSteps, AFailedStepEndsItsRequestsAndNoOthers) {
  for (const bool throws : {true, false}) {
    CoreHarness harness({}, TwoInFlight());
    const Request request = MakeRequest(12, 20);
    Collected* first = harness.Submit(request);
    harness.core().Step();
    harness.core().Step();
    // In the step that is in flight the first request is alone, and in the next it is not.
    const Request other = MakeRequest(9, 10, 2);
    Collected* second = harness.Submit(other);
    int steps = 0;
    if (throws) {
      harness.runner().before = [&](const StepBatch&) {
        if (++steps == 1) {
          throw Error(ErrorCode::kInternal, "the device is gone");
        }
      };
    } else {
      harness.runner().after = [&](const StepBatch&, std::span<float> logits) {
        logits[3] = ++steps == 1 ? std::nanf("") : logits[3];
      };
    }
    harness.core().Step();
    harness.core().CheckInvariants();
    EXPECT_EQ(first->choices[0].finish_reason, FinishReason::kError);
    EXPECT_EQ(first->choices[0].tokens.size(), 1u);
    harness.runner().before = nullptr;
    harness.Run();
    if (throws) {
      // The step in flight was planned on the failed one's tokens.
      EXPECT_EQ(second->choices[0].finish_reason, FinishReason::kError);
    } else {
      EXPECT_EQ(second->choices[0].tokens, Alone(other)) << second->error;
    }
    Collected* third = harness.Submit(other);
    harness.Run();
    EXPECT_EQ(third->choices[0].tokens, Alone(other)) << third->error;
    Collected* again = harness.Submit(request);
    harness.Run();
    EXPECT_EQ(again->choices[0].tokens, Alone(request));
    EXPECT_EQ(again->usage.cached_tokens, 0) << "what a failed request computed is not reused";
    EXPECT_EQ(harness.core().pool().num_free(), SmallInfo().num_blocks);
  }
}

TEST(TwoSteps, WhatIsInFlightEndsWithTheCore) {
  CoreHarness harness({}, TwoInFlight());
  bool ran = false;
  harness.runner().before = [&](const StepBatch&) { ran = true; };
  harness.Submit(MakeRequest(12, 20));
  harness.core().Step();
  EXPECT_FALSE(ran);
  harness.DestroyCore();
  EXPECT_TRUE(ran);
}

TEST(TwoSteps, AnEngineDrainsAndShutsDown) {
  for (const bool drain : {true, false}) {
    std::atomic<int> tokens{0};
    std::atomic<int> length{0};
    std::atomic<int> aborted{0};
    auto engine = std::make_unique<Engine>(
        EngineConfig{}, std::make_unique<testing::FakeRunner>(TwoInFlight()), nullptr, nullptr);
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      engine->Submit(MakeRequest(10, drain ? 20 : 100, seed), [&](const RequestOutput& output) {
        for (const ChoiceOutput& choice : output.choices) {
          tokens += static_cast<int>(choice.token_ids.size());
          length += choice.finish_reason == FinishReason::kLength;
          aborted += choice.finish_reason == FinishReason::kAbort;
        }
      });
    }
    if (drain) {
      EXPECT_TRUE(engine->Drain(Clock::now() + std::chrono::minutes(5)));
      EXPECT_EQ(tokens, 400);
      EXPECT_EQ(length, 20);
      EXPECT_EQ(engine->Stats().free_blocks, SmallInfo().num_blocks);
    } else {
      while (tokens < 10) {
        std::this_thread::yield();
      }
      engine = nullptr;
      EXPECT_EQ(length + aborted, 20) << "every request had its last output";
    }
  }
}

TEST(Drafts, YieldTheSameTokensInFewerSteps) {
  CoreHarness harness({}, Drafting(3), nullptr, testing::FakeVocabulary::Ascii());
  for (const float temperature : {0.0f, 0.9f}) {
    Request request = MakeRequest(10, 60, 3);
    request.sampling.temperature = temperature;
    request.sampling.logprobs = 2;
    request.sampling.min_tokens = 30;
    request.sampling.logit_bias = {{5, 2.0f}};
    Collected* result = harness.Submit(request);
    const int64_t drafted = harness.runner().num_drafted();
    const int steps = harness.Run();
    EXPECT_EQ(result->choices[0].tokens, Alone(request));
    EXPECT_EQ(result->violation, "");
    EXPECT_LT(steps, 40) << "60 tokens";
    EXPECT_GT(harness.runner().num_drafted() - drafted, steps);
    EXPECT_EQ(result->num_outputs, steps);
    EXPECT_EQ(result->usage.completion_tokens, 60);
    EXPECT_EQ(result->usage.completion_by_precision[0], 60);
    ASSERT_EQ(result->choices[0].logprobs.size(), 60u);
    for (size_t i = 0; i < 60; ++i) {
      EXPECT_EQ(result->choices[0].logprobs[i].chosen.token_id, result->choices[0].tokens[i]);
    }
    // What drafts left in the cache was overwritten: the output is a prefix to go on from.
    Request next = request;
    next.sampling.max_tokens = 5;
    next.sampling.min_tokens = 0;
    next.prompt.insert(next.prompt.end(), result->choices[0].tokens.begin(),
                       result->choices[0].tokens.end());
    Collected* turn = harness.Submit(next);
    harness.Run();
    EXPECT_EQ(turn->choices[0].tokens, Alone(next));
    EXPECT_GE(turn->usage.cached_tokens, 64);
  }
}

TEST(Drafts, TokensBehindAnEndAreDropped) {
  EngineConfig config;
  config.eos_token_ids = {7, 8, 9};
  CoreHarness harness(config, Drafting(4));
  int stopped = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    const Request request = MakeRequest(5, 60, seed);
    Collected* result = harness.Submit(request);
    harness.Run();
    EXPECT_EQ(result->choices[0].tokens, Alone(request, 0, config.eos_token_ids));
    EXPECT_EQ(result->usage.completion_tokens, std::ssize(result->choices[0].tokens));
    stopped += result->choices[0].finish_reason == FinishReason::kStop;
    EXPECT_EQ(harness.core().pool().num_free(), SmallInfo().num_blocks);
  }
  EXPECT_GT(stopped, 10);
}

TEST(Drafts, PenaltiesForbidThem) {
  CoreHarness harness({}, Drafting(3));
  Request request = MakeRequest(10, 20);
  request.sampling.repetition_penalty = 1.3f;
  Collected* result = harness.Submit(request);
  EXPECT_EQ(harness.Run(), 20);
  EXPECT_EQ(result->choices[0].tokens, Alone(request));
  EXPECT_EQ(harness.runner().num_drafted(), 0);
}

TEST(Drafts, TakeNobodysPlace) {
  RunnerInfo info = Drafting(8);
  info.max_rows = 16;
  info.max_logit_rows = 16;
  CoreHarness harness({}, info);
  std::vector<Request> requests;
  std::vector<Collected*> results;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    requests.push_back(MakeRequest(3, 25, seed));
    results.push_back(harness.Submit(requests.back()));
  }
  harness.runner().before = [&](const StepBatch& batch) { EXPECT_LE(batch.rows(), 16); };
  std::vector<int64_t> running;
  while (harness.core().Step()) {
    harness.core().CheckInvariants();
    running.push_back(std::ssize(harness.core().scheduler().running()));
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(results[i]->choices[0].tokens, Alone(requests[i]));
  }
  EXPECT_EQ(harness.metrics().num_preemptions_total.value(), 0u);
  EXPECT_EQ(*std::max_element(running.begin(), running.end()), 12);
}

}  // namespace
}  // namespace dualfp
