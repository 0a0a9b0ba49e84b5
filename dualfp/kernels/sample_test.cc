// Every implementation of the sampler against the reference, which sorts and sums in double; the
// reference's distribution and parameters are compared with torch and transformers by the Python
// tests.

#include "dualfp/kernels/sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "dualfp/base/error.h"
#include "dualfp/base/testing/count_allocations.h"
#include "dualfp/kernels/backend_test_util.h"
#include "dualfp/kernels/reference/ops.h"

namespace dualfp {
namespace {

constexpr int64_t kRows = 24;
constexpr int64_t kTops = 4;

// Logits, parameters and states of a step of random draws over a vocabulary.
struct Problem {
  Problem(int64_t vocabulary_in, uint32_t seed) : vocabulary(vocabulary_in) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, 2.5f);
    logits.resize(kRows * vocabulary);
    for (float& logit : logits) {
      logit = normal(random);
    }
    const auto token = [&] { return static_cast<int32_t>(random() % vocabulary); };
    for (int64_t i = 0; i < kRows; ++i) {
      token_ids.push_back(token());
      banned.push_back(token());
      bias.push_back({token(), static_cast<float>(random() % 9) - 4.0f});
      counts.emplace_back(vocabulary);
      for (int n = 0; n < 40; ++n) {
        counts.back()[token()] = n < 20 ? kInPrompt : n % 3 + 1;
      }
    }
    for (int64_t i = 0; i < kRows; ++i) {
      SampleRow row;
      row.logit_row = static_cast<int32_t>(kRows - 1 - i);
      row.state = i % 3 == 0 ? -1 : static_cast<int32_t>(i);
      row.append_row = i % 3 == 1 ? static_cast<int32_t>(i) : -1;
      row.token = i % 11 == 10 ? token() : -1;
      row.ban = i % 2;
      row.score_begin = static_cast<int32_t>(i * (1 + kTops));
      row.num_scores = i % 4 == 0 ? 1 + static_cast<int32_t>(std::min(kTops, vocabulary)) : 0;
      row.seed = seed * 1000 + i;
      row.position = random() % 1000;
      row.choice = i % 5;
      row.temperature = i % 5 == 0 ? 0.0f : 0.3f + 0.1f * static_cast<float>(i % 9);
      row.top_k = i % 4 == 1 ? 1 + static_cast<int64_t>(random() % vocabulary) : 0;
      row.top_p = i % 3 == 2 ? 0.6f + 0.015f * static_cast<float>(i) : 1.0f;
      row.min_p = i % 7 == 3 ? 0.05f : 0.0f;
      row.repetition_penalty = i % 2 == 0 ? 1.3f : 1.0f;
      row.frequency_penalty = i % 5 == 4 ? 0.4f : 0.0f;
      row.presence_penalty = i % 5 == 2 ? 0.7f : 0.0f;
      rows.push_back(row);
    }
  }

  // On copies of the counts, which a run appends to; all in the backend's memory.
  void Run(void (*sample)(const Context&, const SampleArgs&), const Backend& backend, int threads,
           std::span<const SampleRow> wanted) {
    OpsDevice device(backend, threads);
    Context& context = device.context();
    const int64_t bytes = SampleWorkspaceBytes(context, vocabulary);
    context.workspace = device.Put(std::vector<char>(bytes), DType::kU8, {bytes});
    const auto put = [&](const auto& values) { return device.Put(values, DType::kU8, {1}); };
    const TensorView banned_view = put(banned);
    const TensorView bias_view = put(bias);
    std::vector<TensorView> counts_views;
    std::vector<SampleState> states;
    for (int64_t i = 0; i < kRows; ++i) {
      counts_views.push_back(put(counts[i]));
      states.push_back({banned_view.as<int32_t>() + i, 1, bias_view.as<TokenBias>() + i, 1,
                        i % 4 == 0 ? nullptr : counts_views[i].as<int32_t>()});
    }
    const TensorView tokens_view = put(std::vector<int32_t>(wanted.size(), -7));
    const TensorView scores_view = put(std::vector<ScoredToken>(kRows * (1 + kTops)));
    const TensorView rows_view = put(std::vector<SampleRow>(wanted.begin(), wanted.end()));
    const TensorView states_view = put(states);
    ConstTensorView view = device.PutFloats(logits, DType::kF32, {kRows, vocabulary});
    view.shape[1] = seen;
    sample(context, {.logits = view,
                     .drawable = drawable,
                     .token_ids = device.PutInts(token_ids),
                     .rows = {rows_view.as<SampleRow>(), wanted.size()},
                     .states = {states_view.as<SampleState>(), states.size()},
                     .tokens = {tokens_view.as<int32_t>(), wanted.size()},
                     .scores = {scores_view.as<ScoredToken>(), kRows * (1 + kTops)}});
    tokens = device.Get<int32_t>(tokens_view, static_cast<int64_t>(wanted.size()));
    scores = device.Get<ScoredToken>(scores_view, kRows * (1 + kTops));
    appended.clear();
    for (const TensorView& counted : counts_views) {
      appended.push_back(device.Get<int32_t>(counted, vocabulary));
    }
  }

  int64_t vocabulary;
  int64_t seen = vocabulary;  // columns of the logits that a run is shown,
  int64_t drawable = 0;       // and those that it may draw
  std::vector<float> logits;
  std::vector<int32_t> token_ids;
  std::vector<int32_t> banned;
  std::vector<TokenBias> bias;
  std::vector<std::vector<int32_t>> counts;
  std::vector<SampleRow> rows;
  // Of the last run.
  std::vector<std::vector<int32_t>> appended;
  std::vector<int32_t> tokens;
  std::vector<ScoredToken> scores;
};

const Backend& Reference() { return *UsableBackends(DeviceType::kCpu).back(); }

class SampleTest : public ::testing::TestWithParam<const Backend*> {};

TEST_P(SampleTest, DrawsWhatTheReferenceDraws) {
  for (const int64_t vocabulary : {1, 2, 5, 63, 64, 1000, 4096, 20011, 128256}) {
    const bool large = vocabulary > 100000;
    if (large && GetParam()->device == DeviceType::kCpu) {
      continue;  // nothing changes there
    }
    for (uint32_t seed = 1; seed <= (large ? 2 : 12); ++seed) {
      Problem problem(vocabulary, seed);
      problem.Run(reference::Sample, Reference(), 1, problem.rows);
      const auto tokens = problem.tokens;
      const auto scores = problem.scores;
      const auto appended = problem.appended;
      problem.Run(GetParam()->ops->sample, *GetParam(), 3, problem.rows);
      EXPECT_EQ(problem.tokens, tokens) << vocabulary << " " << seed;
      EXPECT_EQ(problem.appended, appended);
      EXPECT_TRUE(vocabulary == 1 || appended != problem.counts);
      for (size_t i = 0; i < scores.size(); ++i) {
        EXPECT_EQ(problem.scores[i].token_id, scores[i].token_id);
        EXPECT_EQ(problem.scores[i].rank, scores[i].rank);
        EXPECT_NEAR(problem.scores[i].logprob, scores[i].logprob, 2e-5);
      }
    }
  }
}

TEST_P(SampleTest, ARowDoesNotDependOnTheOthers) {
  Problem problem(5000, 3);
  problem.Run(GetParam()->ops->sample, *GetParam(), 2, problem.rows);
  const auto together = problem.tokens;
  for (int64_t i = 0; i < kRows; ++i) {
    problem.Run(GetParam()->ops->sample, *GetParam(), 1, std::span(problem.rows).subspan(i, 1));
    EXPECT_EQ(problem.tokens[0], together[i]);
  }
}

TEST_P(SampleTest, NoTokenWhereThereIsNothingToDrawFrom) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Problem problem(3, 1);
  problem.rows.assign(6, {});
  for (int32_t i = 0; i < 6; ++i) {
    problem.rows[i].logit_row = i;
  }
  problem.logits[1] = NAN;
  problem.logits[3] = kInfinity;
  for (const int i : {6, 7, 8, 9, 10}) {
    problem.logits[i] = -kInfinity;  // row 2 in full, row 3 but for its last token
  }
  problem.rows[4].state = 4;
  problem.rows[4].ban = 1;
  problem.logits[12 + problem.banned[4]] = 1.0f;
  for (int32_t token = 0; token < 3; ++token) {
    if (token != problem.banned[4]) {
      problem.logits[12 + token] = -kInfinity;
    }
  }
  problem.rows[5].token = 1;
  problem.logits[16] = NAN;
  problem.Run(GetParam()->ops->sample, *GetParam(), 2, problem.rows);
  EXPECT_EQ(problem.tokens,
            (std::vector<int32_t>{kNoToken, kNoToken, kNoToken, 2, kNoToken, kNoToken}));
}

INSTANTIATE_TEST_SUITE_P(Tables, SampleTest, ::testing::ValuesIn(BackendsWithOps()),
                         [](const auto& backend) { return std::string(backend.param->name); });

// Tokens from `drawable` on are scored like any others, and drawn as if they were not there.
TEST_P(SampleTest, DrawsOnlyWhatIsDrawable) {
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    Problem problem(1000, seed);
    for (SampleRow& row : problem.rows) {
      row.token = -1;
    }
    const auto run = [&](int64_t seen, int64_t drawable) {
      problem.seen = seen;
      problem.drawable = drawable;
      problem.Run(GetParam()->ops->sample, *GetParam(), 1, problem.rows);
      return problem.tokens;
    };
    const std::vector<int32_t> all = run(1000, 0);
    EXPECT_EQ(run(1000, 1000), all);
    for (int64_t i = 0; i < kRows; ++i) {
      // What is said of tokens that the narrower problem does not have.
      problem.banned[i] %= 40;
      problem.bias[i].token %= 40;
    }
    for (const int64_t drawable : {40, 511, 999}) {
      const std::vector<int32_t> expected = run(drawable, 0);
      EXPECT_EQ(run(1000, drawable), expected) << drawable;
      EXPECT_LT(*std::ranges::max_element(problem.tokens), drawable);
      // Scores are of all.
      std::vector<SampleRow> given = problem.rows;
      for (size_t i = 0; i < given.size(); ++i) {
        given[i].token = problem.tokens[i];
      }
      const std::vector<ScoredToken> scores = problem.scores;
      problem.drawable = 0;
      problem.Run(GetParam()->ops->sample, *GetParam(), 1, given);
      for (size_t i = 0; i < scores.size(); ++i) {
        EXPECT_EQ(scores[i].token_id, problem.scores[i].token_id);
        EXPECT_EQ(scores[i].logprob, problem.scores[i].logprob);
      }
    }
  }
}

TEST(Sample, AllocatesNothing) {
  Problem problem(3000, 2);
  ThreadPool threads(2);
  Context context{.threads = &threads};
  std::vector<char> scratch(SampleWorkspaceBytes(context, 3000));
  context.workspace = {scratch.data(), DType::kU8, {static_cast<int64_t>(scratch.size())}};
  std::vector<SampleState> states(kRows);
  problem.Run(Sample, BestBackend(DeviceType::kCpu), 2, problem.rows);
  const SampleArgs args{.logits = {problem.logits.data(), DType::kF32, {kRows, 3000}},
                        .token_ids = {problem.token_ids.data(), DType::kI32, {kRows}},
                        .rows = problem.rows,
                        .states = states,
                        .tokens = problem.tokens,
                        .scores = problem.scores};
  Sample(context, args);
  const int64_t before = CountAllocations();
  Sample(context, args);
  EXPECT_EQ(CountAllocations() - before, 0);
}

TEST(Sample, RefusesArgumentsThatDisagree) {
  Problem problem(50, 2);
  const auto refused = [&](const SampleRow& row) {
    try {
      problem.Run(Sample, BestBackend(DeviceType::kCpu), 1, {&row, 1});
    } catch (const Error& error) {
      return error.code() == ErrorCode::kInvalidArgument;
    }
    return false;
  };
  EXPECT_FALSE(refused({}));
  EXPECT_TRUE(refused({.logit_row = kRows}));
  EXPECT_TRUE(refused({.token = 50}));
  EXPECT_TRUE(refused({.state = kRows}));
  EXPECT_TRUE(refused({.append_row = 3}));
  EXPECT_TRUE(refused({.state = 1, .append_row = kRows}));
  EXPECT_TRUE(refused({.score_begin = kRows * (1 + kTops), .num_scores = 1}));
  ThreadPool threads(1);
  const Context bare{.threads = &threads};
  EXPECT_THROW(Sample(bare, {.logits = {problem.logits.data(), DType::kF32, {kRows, 50}},
                             .token_ids = {problem.token_ids.data(), DType::kI32, {kRows}},
                             .rows = problem.rows,
                             .states = {},
                             .tokens = problem.tokens,
                             .scores = problem.scores}),
               Error);
}

}  // namespace
}  // namespace dualfp
