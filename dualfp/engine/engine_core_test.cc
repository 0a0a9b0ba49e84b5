#include "dualfp/engine/engine_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

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
                  Precision precision = Precision::kExact,
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
    rows.push_back(static_cast<int32_t>(batch.token_ids().size()));
    EXPECT_EQ(batch.query_start()[1], 1) << "the decode comes first";
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
    copies.push_back(batch.copies().size());
    rows.push_back(batch.token_ids().size());
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

  request.precision = PrecisionPin::kExact;
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
    ExpectTokens(*result, request, info, Precision::kExact, config.eos_token_ids);
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
      ExpectedTokens(request, 0, 3, UniformTag(SmallInfo(), Precision::kExact), SmallInfo(), {});
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
    context.Add(plain.prompt[position - 1], UniformTag(info, Precision::kExact));
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

}  // namespace
}  // namespace dualfp
