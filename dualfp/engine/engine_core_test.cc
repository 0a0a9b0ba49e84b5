#include "dualfp/engine/engine_core.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "dualfp/base/error.h"
#include "dualfp/engine/testing/fake_vocabulary.h"
#include "dualfp/engine/testing/harness.h"

namespace dualfp {
namespace {

using testing::Collected;
using testing::CoreHarness;
using testing::ExpectedTokens;
using testing::SmallInfo;
using testing::UniformTag;

Request MakeRequest(std::vector<int32_t> prompt, int64_t max_tokens, uint64_t seed = 1) {
  Request request;
  request.prompt = std::move(prompt);
  request.sampling.max_tokens = max_tokens;
  request.sampling.seed = seed;
  return request;
}

std::vector<int32_t> Range(int count, int first = 0) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

void ExpectTokens(const Collected& result, const Request& request, const RunnerInfo& info,
                  Precision precision = Precision::kFp16,
                  const std::vector<int32_t>& eos_token_ids = {}) {
  EXPECT_EQ(result.violation, "");
  EXPECT_TRUE(result.finished);
  for (int choice = 0; choice < request.sampling.n; ++choice) {
    EXPECT_EQ(result.choices[choice].tokens,
              ExpectedTokens(request, choice, *request.sampling.seed, UniformTag(info, precision),
                             info, eos_token_ids))
        << "request " << result.id << " choice " << choice << " error " << result.error;
  }
}

TEST(EngineCore, GeneratesWhatTheModelAloneWould) {
  CoreHarness harness({}, SmallInfo());
  const Request request = MakeRequest(Range(10), 20);
  Collected* result = harness.Submit(request);
  EXPECT_EQ(harness.Run(), 20);
  ExpectTokens(*result, request, SmallInfo());
  EXPECT_EQ(result->num_outputs, 20);
  EXPECT_EQ(result->choices[0].finish_reason, FinishReason::kLength);
  EXPECT_EQ(result->usage.prompt_tokens, 10);
  EXPECT_EQ(result->usage.completion_tokens, 20);
  EXPECT_EQ(result->usage.prompt_by_precision, (TokensByPrecision{10, 0, 0, 0}));
  EXPECT_EQ(result->usage.completion_by_precision, (TokensByPrecision{20, 0, 0, 0}));
  EXPECT_EQ(harness.core().pool().num_free(), SmallInfo().num_blocks);
}

TEST(EngineCore, CutsALongPromptIntoChunksBehindDecodes) {
  EngineConfig config;
  config.max_num_batched_tokens = 16;
  config.max_num_seqs = 4;
  CoreHarness harness(config, SmallInfo());
  const Request small = MakeRequest(Range(4), 30);
  Collected* first = harness.Submit(small);
  harness.core().Step();
  const Request large = MakeRequest(Range(50, 20), 5);
  Collected* second = harness.Submit(large);
  std::vector<int32_t> rows;
  harness.runner().before = [&](const StepBatch& batch) {
    rows.push_back(static_cast<int32_t>(batch.token_ids.size()));
    EXPECT_EQ(batch.query_start[1], 1) << "the decode comes first";
  };
  for (int step = 0; step < 4; ++step) {
    EXPECT_TRUE(second->choices[0].tokens.empty());
    harness.core().Step();
    harness.core().CheckInvariants();
  }
  // 50 tokens at 15 a step, since one place is the decode's.
  EXPECT_EQ(rows, (std::vector<int32_t>{16, 16, 16, 6}));
  EXPECT_EQ(second->choices[0].tokens.size(), 1u);
  EXPECT_EQ(first->choices[0].tokens.size(), 5u);
  harness.runner().before = nullptr;
  harness.Run();
  ExpectTokens(*first, small, SmallInfo());
  ExpectTokens(*second, large, SmallInfo());
}

TEST(EngineCore, ChoicesShareThePromptAndCopyOnWrite) {
  CoreHarness harness({}, SmallInfo());
  Request request = MakeRequest(Range(10), 8);
  request.sampling.n = 3;
  Collected* result = harness.Submit(request);
  std::vector<size_t> copies;
  std::vector<size_t> rows;
  harness.runner().before = [&](const StepBatch& batch) {
    copies.push_back(batch.copies.size());
    rows.push_back(batch.token_ids.size());
  };
  harness.core().Step();
  // 10 tokens fill two blocks of 4 and half a third, which all choices hold.
  EXPECT_EQ(harness.core().pool().num_free(), SmallInfo().num_blocks - 3);
  harness.core().CheckInvariants();
  harness.Run();
  ExpectTokens(*result, request, SmallInfo());
  EXPECT_NE(result->choices[0].tokens, result->choices[1].tokens);
  EXPECT_EQ(rows[0], 10u);
  EXPECT_EQ(rows[1], 3u);
  EXPECT_EQ(copies[0], 0u);
  EXPECT_EQ(copies[1], 2u) << "the last holder writes in place";
  EXPECT_EQ(copies[2], 0u);
  EXPECT_EQ(result->usage.prompt_by_precision[0], 10);
  EXPECT_EQ(result->usage.completion_tokens, 24);
}

TEST(EngineCore, ChoicesWithoutAPlaceWaitAndGetTheSameTokens) {
  EngineConfig config;
  config.max_num_seqs = 2;
  CoreHarness harness(config, SmallInfo());
  Request request = MakeRequest(Range(10), 8);
  request.sampling.n = 5;
  Collected* result = harness.Submit(request);
  harness.Run();
  ExpectTokens(*result, request, SmallInfo());
}

TEST(EngineCore, PrefixCacheHitsGiveIdenticalOutput) {
  CoreHarness harness({}, SmallInfo());
  const Request request = MakeRequest(Range(23), 9);
  Collected* first = harness.Submit(request);
  harness.Run();
  Collected* second = harness.Submit(request);
  harness.Run();
  ExpectTokens(*first, request, SmallInfo());
  ExpectTokens(*second, request, SmallInfo());
  EXPECT_EQ(first->usage.cached_tokens, 0);
  EXPECT_EQ(second->usage.cached_tokens, 20);
  EXPECT_EQ(second->usage.prompt_by_precision[0], 3);
  EXPECT_EQ(harness.metrics().prefix_cache_queries_total.value(), 46u);
  EXPECT_EQ(harness.metrics().prefix_cache_hits_total.value(), 20u);
}

TEST(EngineCore, AWholeCachedPromptStillComputesItsLastBlock) {
  CoreHarness harness({}, SmallInfo());
  const Request request = MakeRequest(Range(16), 4);
  harness.Submit(request);
  harness.Run();
  Collected* second = harness.Submit(request);
  harness.Run();
  ExpectTokens(*second, request, SmallInfo());
  EXPECT_EQ(second->usage.cached_tokens, 12);
}

TEST(EngineCore, OutputIsCachedForTheNextTurn) {
  CoreHarness harness({}, SmallInfo());
  const Request request = MakeRequest(Range(16), 17);
  Collected* first = harness.Submit(request);
  harness.Run();
  Request next = MakeRequest(request.prompt, 3);
  next.prompt.insert(next.prompt.end(), first->choices[0].tokens.begin(),
                     first->choices[0].tokens.end());
  next.prompt.push_back(5);
  Collected* second = harness.Submit(next);
  harness.Run();
  ExpectTokens(*second, next, SmallInfo());
  EXPECT_EQ(second->usage.cached_tokens, 32) << "16 + 17 tokens, of which the last is not computed";
}

TEST(EngineCore, CachedBlocksBelongToTheirPrecisionAndSalt) {
  CoreHarness harness({}, SmallInfo());
  Request request = MakeRequest(Range(23), 9);
  harness.Submit(request);
  harness.Run();

  request.precision = PrecisionPin::kFp8;
  Collected* fp8 = harness.Submit(request);
  harness.Run();
  EXPECT_EQ(fp8->usage.cached_tokens, 0);
  ExpectTokens(*fp8, request, SmallInfo(), Precision::kFp8);
  Collected* fp8_again = harness.Submit(request);
  harness.Run();
  EXPECT_EQ(fp8_again->usage.cached_tokens, 20);
  ExpectTokens(*fp8_again, request, SmallInfo(), Precision::kFp8);

  request.precision = PrecisionPin::kFp16;
  Collected* fp16 = harness.Submit(request);
  harness.Run();
  EXPECT_EQ(fp16->usage.cached_tokens, 20) << "an unpinned request ran in FP16 before";
  ExpectTokens(*fp16, request, SmallInfo());

  request.cache_salt = "another tenant";
  Collected* salted = harness.Submit(request);
  harness.Run();
  EXPECT_EQ(salted->usage.cached_tokens, 0);
  ExpectTokens(*salted, request, SmallInfo());
}

TEST(EngineCore, PreemptsTheLeastImportantAndRecomputesIt) {
  RunnerInfo info = SmallInfo();
  info.num_blocks = 12;  // 48 tokens
  CoreHarness harness({}, info);
  std::vector<Request> requests;
  std::vector<Collected*> results;
  for (int i = 0; i < 3; ++i) {
    requests.push_back(MakeRequest(Range(6, 10 * i), 30, i));
    requests.back().priority = i == 0 ? 1 : 0;
    results.push_back(harness.Submit(requests.back()));
  }
  harness.Run();
  EXPECT_GT(harness.metrics().num_preemptions_total.value(), 0u);
  for (int i = 0; i < 3; ++i) {
    ExpectTokens(*results[i], requests[i], info);
    EXPECT_EQ(results[i]->usage.prompt_by_precision[0] + results[i]->usage.cached_tokens, 6);
  }
  EXPECT_GE(results[0]->timing.last_token, results[1]->timing.last_token);
  EXPECT_EQ(harness.core().pool().num_free(), 12);
}

TEST(EngineCore, RunsInOrderOfPriorityThenArrival) {
  EngineConfig config;
  config.max_num_seqs = 1;
  CoreHarness harness(config, SmallInfo());
  std::vector<RequestId> order;
  std::vector<Collected*> results;
  for (const int priority : {5, 0, -3, 0, 5}) {
    Request request = MakeRequest(Range(4), 3);
    request.priority = priority;
    results.push_back(harness.Submit(request));
  }
  while (harness.core().Step()) {
    for (const Collected* result : results) {
      if (result->finished && std::find(order.begin(), order.end(), result->id) == order.end()) {
        order.push_back(result->id);
      }
    }
  }
  EXPECT_EQ(order, (std::vector<RequestId>{3, 2, 4, 1, 5}));
}

TEST(EngineCore, CancelsInEveryState) {
  EngineConfig config;
  config.max_num_seqs = 2;
  config.max_num_batched_tokens = 8;
  CoreHarness harness(config, SmallInfo());
  std::vector<Collected*> results;
  for (int i = 0; i < 5; ++i) {
    Request request = MakeRequest(Range(30, i), 30, i);
    request.sampling.n = 2;
    results.push_back(harness.Submit(request));
  }
  harness.core().Step();                  // 1 in the middle of its prompt
  harness.core().Cancel(results[0]->id);  // running, with an unborn choice
  harness.core().Cancel(results[4]->id);  // waiting
  harness.core().CheckInvariants();
  EXPECT_TRUE(results[0]->finished);
  EXPECT_EQ(results[0]->choices[1].finish_reason, FinishReason::kAbort);
  EXPECT_TRUE(results[4]->finished);
  for (int step = 0; step < 8; ++step) {
    harness.core().Step();
    harness.core().CheckInvariants();
  }
  EXPECT_FALSE(results[1]->choices[1].tokens.empty());
  harness.core().Cancel(results[1]->id);  // two decoding choices
  harness.core().Cancel(results[1]->id);  // again: ignored
  harness.core().Cancel(12345);
  harness.core().CheckInvariants();
  harness.core().CancelAll();
  EXPECT_TRUE(harness.core().idle());
  EXPECT_FALSE(harness.core().Step());
  EXPECT_EQ(harness.core().pool().num_free(), SmallInfo().num_blocks);
  for (const Collected* result : results) {
    EXPECT_TRUE(result->finished);
    EXPECT_EQ(result->violation, "");
  }
  EXPECT_EQ(harness.metrics().request_success_total[2].value(), 5u);
}

TEST(EngineCore, EndsByEosStopIdAndLength) {
  EngineConfig config;
  config.eos_token_ids = {7, 8};
  RunnerInfo info = SmallInfo();
  int eos = 0;
  int stop_id = 0;
  CoreHarness harness(config, info);
  std::vector<std::pair<Request, Collected*>> runs;
  for (int seed = 0; seed < 60; ++seed) {
    Request request = MakeRequest(Range(5), 40, seed);
    request.sampling.stop_token_ids = {20, 21};
    request.sampling.ignore_eos = seed % 3 == 0;
    request.sampling.min_tokens = seed % 4 == 0 ? 15 : 0;
    runs.emplace_back(request, harness.Submit(request));
  }
  harness.Run();
  for (const auto& [request, result] : runs) {
    ExpectTokens(*result, request, info, Precision::kFp16, config.eos_token_ids);
    const auto& choice = result->choices[0];
    const int32_t last = choice.tokens.back();
    if (last == 20 || last == 21) {
      ++stop_id;
      EXPECT_EQ(choice.finish_reason, FinishReason::kStop);
      EXPECT_EQ(choice.stop_token, last);
    } else if ((last == 7 || last == 8) && !request.sampling.ignore_eos) {
      ++eos;
      EXPECT_EQ(choice.finish_reason, FinishReason::kStop);
      EXPECT_EQ(choice.stop_token, -1);
    } else {
      EXPECT_EQ(choice.finish_reason, FinishReason::kLength);
      EXPECT_EQ(choice.tokens.size(), 40u);
    }
    EXPECT_GE(static_cast<int64_t>(choice.tokens.size()), request.sampling.min_tokens);
  }
  EXPECT_GT(eos, 5);
  EXPECT_GT(stop_id, 5);
}

TEST(EngineCore, StopStringsEndAChoiceAcrossTokens) {
  CoreHarness harness({}, SmallInfo(), nullptr, testing::FakeVocabulary::Ascii());
  Request request = MakeRequest(Range(5), 60, 3);
  const std::vector<int32_t> tokens =
      ExpectedTokens(request, 0, 3, UniformTag(SmallInfo(), Precision::kFp16), SmallInfo(), {});
  std::string text;
  for (const int32_t token : tokens) {
    testing::FakeVocabulary::Ascii()->AppendTokenBytes(token, &text);
  }
  // Three characters from the middle, hence three tokens.
  const std::string stop = text.substr(20, 3);
  const size_t at = text.find(stop);
  for (const bool include : {false, true}) {
    request.sampling.stop = {"not in the text", stop};
    request.sampling.include_stop_str_in_output = include;
    Collected* result = harness.Submit(request);
    harness.Run();
    EXPECT_EQ(result->choices[0].text, text.substr(0, at + (include ? 3 : 0)));
    EXPECT_EQ(result->choices[0].finish_reason, FinishReason::kStop);
    EXPECT_EQ(result->choices[0].stop_string, stop);
    EXPECT_EQ(result->violation, "");
  }
  request.sampling.stop = {"not in the text"};
  Collected* result = harness.Submit(request);
  harness.Run();
  EXPECT_EQ(result->choices[0].text, text);
}

TEST(EngineCore, LogprobsComeWithTheirTokens) {
  EngineConfig config;
  config.max_num_batched_tokens = 16;
  RunnerInfo info = SmallInfo();
  info.max_logit_rows = 16;  // makes the prompt's scores come in pieces
  CoreHarness harness(config, info, nullptr, testing::FakeVocabulary::Ascii());
  Request plain = MakeRequest(Range(40), 12, 9);
  Request scored = plain;
  scored.sampling.logprobs = 3;
  scored.sampling.prompt_logprobs = 2;
  scored.sampling.n = 2;
  harness.Submit(plain);
  harness.Run();
  Collected* result = harness.Submit(scored);
  harness.Run();
  ExpectTokens(*result, scored, info);
  EXPECT_EQ(result->usage.cached_tokens, 0) << "prompt logprobs need the whole prompt computed";

  ASSERT_EQ(result->prompt_logprobs.size(), 40u);
  EXPECT_EQ(result->prompt_logprobs[0].chosen.token_id, -1);
  testing::FakeContext context;
  std::vector<float> logits(info.vocab_size);
  for (int position = 1; position < 40; ++position) {
    context.Add(plain.prompt[position - 1], UniformTag(info, Precision::kFp16));
    context.Logits(logits);
    double sum = 0;
    for (const float logit : logits) {
      sum += std::exp(static_cast<double>(logit));
    }
    const auto& scores = result->prompt_logprobs[position];
    EXPECT_EQ(scores.chosen.token_id, plain.prompt[position]);
    EXPECT_NEAR(scores.chosen.logprob, logits[plain.prompt[position]] - std::log(sum), 1e-5);
    ASSERT_EQ(scores.top.size(), 2u);
    EXPECT_EQ(logits[scores.top[0].token_id], *std::max_element(logits.begin(), logits.end()));
    EXPECT_GE(scores.top[0].logprob, scores.top[1].logprob);
    EXPECT_EQ(scores.chosen.bytes.size(), plain.prompt[position] == 95 ? 2u : 1u);
  }
  for (const auto& choice : result->choices) {
    ASSERT_EQ(choice.logprobs.size(), 12u);
    for (size_t i = 0; i < choice.tokens.size(); ++i) {
      EXPECT_EQ(choice.logprobs[i].chosen.token_id, choice.tokens[i]);
      EXPECT_EQ(choice.logprobs[i].top.size(), 3u);
      EXPECT_EQ(choice.logprobs[i].top[0].rank, 1);
    }
  }
}

TEST(EngineCore, AFailedStepEndsItsRequestsAndNoOthers) {
  EngineConfig config;
  config.max_num_seqs = 1;
  CoreHarness harness(config, SmallInfo());
  const Request request = MakeRequest(Range(12), 10);
  Collected* first = harness.Submit(request);
  Collected* second = harness.Submit(request);
  harness.core().Step();
  harness.core().Step();
  harness.runner().before = [](const StepBatch&) {
    throw Error(ErrorCode::kInternal, "the device is gone");
  };
  harness.core().Step();
  harness.core().CheckInvariants();
  harness.runner().before = nullptr;
  EXPECT_TRUE(first->finished);
  EXPECT_EQ(first->choices[0].finish_reason, FinishReason::kError);
  EXPECT_NE(first->error.find("the device is gone"), std::string::npos);
  EXPECT_EQ(first->choices[0].tokens.size(), 2u);
  harness.Run();
  ExpectTokens(*second, request, SmallInfo());
  EXPECT_EQ(second->usage.cached_tokens, 0) << "what a failed request computed is not reused";
  EXPECT_EQ(harness.metrics().step_errors_total.value(), 1u);
}

TEST(EngineCore, NanLogitsEndTheirRequestAlone) {
  CoreHarness harness({}, SmallInfo());
  const Request request = MakeRequest(Range(12), 10, 1);
  const Request other = MakeRequest(Range(9, 30), 10, 2);
  Collected* bad = harness.Submit(request);
  Collected* good = harness.Submit(other);
  int step = 0;
  harness.runner().after = [&](const StepBatch&, std::span<float> logits) {
    if (++step == 4) {
      logits[17] = std::nanf("");  // first row: the more important request's
    }
  };
  harness.Run();
  EXPECT_EQ(bad->choices[0].finish_reason, FinishReason::kError);
  EXPECT_NE(bad->error.find("NaN"), std::string::npos);
  ExpectTokens(*good, other, SmallInfo());
  Collected* again = harness.Submit(request);
  harness.Run();
  EXPECT_EQ(again->usage.cached_tokens, 0);
  ExpectTokens(*again, request, SmallInfo());
}

TEST(EngineCore, ASinkThatThrowsHarmsNobody) {
  CoreHarness harness({}, SmallInfo());
  RequestContext context{96, 128, 4, nullptr, {}};
  auto state = MakeRequestState(
      MakeRequest(Range(4), 4), [](const RequestOutput&) { throw std::runtime_error("sink"); }, 1,
      context);
  state->id = 1000;
  const Request request = MakeRequest(Range(9), 8);
  Collected* result = harness.Submit(request);
  harness.core().Add(std::move(state));
  harness.Run();
  ExpectTokens(*result, request, SmallInfo());
}

// Random controllers: any plan at any step, which no request may notice whose precision is pinned.
class RandomController : public PrecisionController {
 public:
  explicit RandomController(uint64_t seed) : random_(seed) {}
  void Choose(const StepSummary& /*step*/, PrecisionPlan* plan) override {
    const bool uniform = random_() % 2 == 0;
    const bool fp8 = random_() % 2 == 0;
    for (int layer = 0; layer < static_cast<int>(plan->layers.size()); ++layer) {
      plan->layers[layer] =
          (uniform ? fp8 : random_() % 2 == 0) ? Precision::kFp8 : Precision::kFp16;
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

struct WorkloadCounts {
  uint64_t preemptions = 0;
  uint64_t cache_hits = 0;
  uint64_t copies = 0;
  uint64_t cancelled = 0;
};

// Any mix of requests on any size of engine: every step leaves all accounts in order, everything
// ends, nothing leaks, and each request gets the tokens that it would get alone.
void RunRandomWorkload(int seed, WorkloadCounts* counts) {
  std::mt19937 random(seed);
  const auto below = [&](uint64_t bound) { return static_cast<int>(random() % bound); };
  RunnerInfo info = SmallInfo();
  info.block_size = 1 + below(6);
  info.num_blocks = 4 + below(50);
  info.max_sequences = 1 + below(12);
  info.max_rows = info.max_sequences + below(40);
  info.max_logit_rows = info.max_sequences + below(10);
  EngineConfig config;
  config.enable_prefix_caching = below(4) != 0;
  config.eos_token_ids = {3};
  const bool adaptive = below(3) == 0;
  const bool fp8 = below(2) == 0;
  std::shared_ptr<PrecisionController> controller;
  if (adaptive) {
    controller = std::make_shared<RandomController>(random());
  } else {
    controller = MakeFixedController(
        PrecisionPlan::Uniform(info.num_layers, fp8 ? Precision::kFp8 : Precision::kFp16));
  }
  CoreHarness harness(config, info, controller);
  harness.runner().before = [&](const StepBatch& batch) { counts->copies += batch.copies.size(); };

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
      // Pins of one kind only, as FP16 pins decide for FP8 pins.
      if (adaptive && below(2) == 0) {
        request.precision = PrecisionPin::kFp16;
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
  counts->preemptions += harness.metrics().num_preemptions_total.value();
  counts->cache_hits += harness.metrics().prefix_cache_hits_total.value();
  for (const Run& run : runs) {
    counts->cancelled += run.cancelled;
    ASSERT_TRUE(run.result->finished);
    EXPECT_EQ(run.result->violation, "");
    EXPECT_EQ(run.result->error, "");
    const bool reproducible = !adaptive || run.request.precision == PrecisionPin::kFp16;
    if (!reproducible) {
      continue;
    }
    const Precision precision = !adaptive && fp8 ? Precision::kFp8 : Precision::kFp16;
    for (int choice = 0; choice < run.request.sampling.n; ++choice) {
      std::vector<int32_t> expected =
          ExpectedTokens(run.request, choice, *run.request.sampling.seed,
                         UniformTag(info, precision), info, config.eos_token_ids);
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

class RandomWorkload : public ::testing::TestWithParam<int> {};

TEST_P(RandomWorkload, KeepsItsAccountsAndItsPromises) {
  WorkloadCounts counts;
  for (int seed = 100 * GetParam(); seed < 100 * GetParam() + 50; ++seed) {
    SCOPED_TRACE(seed);
    RunRandomWorkload(seed, &counts);
    if (HasFatalFailure()) {
      return;
    }
  }
  // The workloads reach what they are meant to test.
  EXPECT_GT(counts.preemptions, 100u);
  EXPECT_GT(counts.cache_hits, 1000u);
  EXPECT_GT(counts.copies, 100u);
  EXPECT_GT(counts.cancelled, 20u);
  RecordProperty("preemptions", std::to_string(counts.preemptions));
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomWorkload, ::testing::Range(0, 8));

}  // namespace
}  // namespace dualfp
