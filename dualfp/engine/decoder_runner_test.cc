// The engine over the trained reference model: what the tests with a fake model promise, on real
// kernels and a real cache.

#include "dualfp/engine/decoder_runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <random>

#include "dualfp/base/error.h"
#include "dualfp/engine/engine_core.h"
#include "dualfp/engine/testing/harness.h"
#include "dualfp/model/weights.h"

namespace dualfp {
namespace {

using testing::Collected;

class ReferenceModel : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    threads_ = new ThreadPool(2);
    LoadOptions options;
    options.scheme = kNestedWeights;
    model_ = new Model(LoadModel(std::filesystem::path(DUALFP_SOURCE_DIR) / "models/reference",
                                 options, *threads_));
  }
  static void TearDownTestSuite() {
    delete model_;
    delete threads_;
  }

  static DecoderRunnerConfig RunnerConfig() {
    DecoderRunnerConfig config;
    config.num_blocks = 256;
    config.max_num_batched_tokens = 64;
    config.max_num_seqs = 16;
    return config;
  }

  static Request MakeRequest(uint64_t seed, int prompt, int64_t max_tokens) {
    std::mt19937_64 random(seed);
    Request request;
    for (int i = 0; i < prompt; ++i) {
      request.prompt.push_back(static_cast<int32_t>(random() % 4000));
    }
    request.sampling.max_tokens = max_tokens;
    request.sampling.seed = seed;
    request.sampling.temperature = seed % 2 == 0 ? 0.0f : 1.0f;
    return request;
  }

  // An engine of its own for each call; results in the order of the requests.
  static std::vector<Collected> Serve(const std::vector<Request>& requests,
                                      const DecoderRunnerConfig& runner_config,
                                      uint64_t* preemptions = nullptr) {
    DecoderRunner runner(*model_, runner_config, threads_);
    EngineConfig config;
    EngineMetrics metrics(runner.info().max_model_len);
    EngineCore core(
        config, &runner, nullptr,
        MakeFixedController(PrecisionPlan::Uniform(runner.info().num_layers, Precision::kExact)),
        &metrics, {1, 2});
    const RequestContext context{runner.info().vocab_size,
                                 runner.info().max_model_len,
                                 runner.info().block_size,
                                 nullptr,
                                 {}};
    std::vector<Collected> results(requests.size());
    size_t added = 0;
    do {
      // They come one after the other, two steps apart.
      for (int step = 0; step < 2; ++step) {
        core.Step();
        core.CheckInvariants();
      }
      if (added < requests.size()) {
        Collected* result = &results[added];
        result->choices.resize(requests[added].sampling.n);
        auto state = MakeRequestState(
            requests[added], [result](const RequestOutput& output) { result->Take(output); }, 0,
            context);
        state->id = ++added;
        core.Add(std::move(state));
      }
    } while (!core.idle());
    for (const Collected& result : results) {
      EXPECT_EQ(result.violation + result.error, "");
    }
    if (preemptions != nullptr) {
      *preemptions = metrics.num_preemptions_total.value();
    }
    return results;
  }

  static ThreadPool* threads_;
  static Model* model_;
};

ThreadPool* ReferenceModel::threads_ = nullptr;
Model* ReferenceModel::model_ = nullptr;

TEST_F(ReferenceModel, GreedyTokensAreTheDecodersOwn) {
  const Request request = MakeRequest(2, 37, 24);
  const Collected result = Serve({request}, RunnerConfig())[0];

  DecoderOptions options;
  options.limits.max_tokens = 64;
  Decoder decoder(*model_, options);
  KvCache cache(model_->KvCacheFor(DType::kF16, 8));
  const std::vector<int32_t> blocks = {5, 3, 7, 1};
  const auto plan =
      PrecisionPlan::Uniform(static_cast<int64_t>(model_->layers.size()), Precision::kExact);
  Context context;
  context.threads = threads_;
  std::vector<float> logits(model_->config.vocab_size);
  StepBatch batch = decoder.NewBatch();
  std::vector<int32_t> tokens = request.prompt;
  std::vector<int32_t> output;
  int64_t position = 0;
  while (output.size() < 24) {
    const std::vector<int32_t> chunk(tokens.begin() + position, tokens.end());
    batch.Clear();
    batch.AddSequence(chunk, position, blocks);
    batch.SetPlan(&plan);
    batch.AddLogitRow(batch.rows() - 1);
    decoder.Forward(context, batch, cache,
                    {logits.data(), DType::kF32, {1, model_->config.vocab_size}});
    position += batch.rows();
    output.push_back(
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    tokens.push_back(output.back());
  }
  EXPECT_EQ(result.choices[0].tokens, output);
}

// The same request alone, in a crowd, chunked, preempted, from the prefix cache, and as one of
// several choices.
TEST_F(ReferenceModel, TokensDoNotDependOnTheRestOfTheBatch) {
  for (const PrecisionPin pin : {PrecisionPin::kExact, PrecisionPin::kFp8}) {
    std::vector<Request> requests;
    for (int i = 0; i < 10; ++i) {
      requests.push_back(MakeRequest(i, 5 + 23 * (i % 4), 12 + 3 * i));
      requests.back().precision = pin;
      requests.back().sampling.n = 1 + i % 3;
    }
    requests.push_back(requests[3]);  // a prefix that is cached
    std::map<size_t, Collected> alone;
    for (const size_t index : {3u, 6u, 7u}) {
      alone[index] = Serve({requests[index]}, RunnerConfig())[0];
      EXPECT_EQ(static_cast<int64_t>(alone[index].choices[0].tokens.size()),
                *requests[index].sampling.max_tokens);
    }
    DecoderRunnerConfig tight = RunnerConfig();
    tight.num_blocks = 9;
    tight.max_num_batched_tokens = 16;
    uint64_t preemptions = 0;
    const auto crowd = Serve(requests, RunnerConfig());
    const auto preempted = Serve(requests, tight, &preemptions);
    EXPECT_GT(preemptions, 0u);
    EXPECT_GT(crowd[10].usage.cached_tokens, 0);
    for (const auto& [index, result] : alone) {
      for (size_t choice = 0; choice < result.choices.size(); ++choice) {
        EXPECT_EQ(crowd[index].choices[choice].tokens, result.choices[choice].tokens);
        EXPECT_EQ(preempted[index].choices[choice].tokens, result.choices[choice].tokens);
      }
    }
    EXPECT_EQ(crowd[10].choices[0].tokens, crowd[3].choices[0].tokens);
    EXPECT_NE(crowd[7].choices[0].tokens, crowd[7].choices[1].tokens);
    const size_t precision = pin == PrecisionPin::kExact ? 0 : 1;
    EXPECT_EQ(crowd[6].usage.completion_by_precision[precision], crowd[6].usage.completion_tokens);
  }
}

// Neighbours of the other precision, in one step with it, change nothing; nor does a host that
// plans a step ahead.
TEST_F(ReferenceModel, PinsDoNotDependOnTheirNeighbours) {
  std::vector<Request> requests;
  for (int i = 0; i < 9; ++i) {
    requests.push_back(MakeRequest(i, 5 + 17 * (i % 4), 10 + 3 * i));
    requests.back().precision = i % 3 == 0   ? PrecisionPin::kExact
                                : i % 3 == 1 ? PrecisionPin::kFp8
                                             : PrecisionPin::kAuto;
    requests.back().sampling.n = 1 + i % 2;
    requests.back().sampling.presence_penalty = i % 4 == 1 ? 0.5f : 0.0f;
    // The same prompt at the other precision: its cached blocks are not for this one.
    if (i >= 6) {
      requests.back().prompt = requests[i - 2].prompt;
    }
  }
  DecoderRunnerConfig ahead = RunnerConfig();
  ahead.max_steps_in_flight = 2;
  DecoderRunnerConfig tight = RunnerConfig();
  tight.num_blocks = 9;
  tight.max_num_batched_tokens = 16;
  uint64_t preemptions = 0;
  const auto together = Serve(requests, RunnerConfig());
  const auto overlapped = Serve(requests, ahead);
  const auto preempted = Serve(requests, tight, &preemptions);
  EXPECT_GT(preemptions, 0u);
  for (size_t i = 0; i < requests.size(); ++i) {
    const Collected alone = Serve({requests[i]}, RunnerConfig())[0];
    const bool fp8 = requests[i].precision == PrecisionPin::kFp8;
    EXPECT_EQ(together[i].usage.completion_by_precision[fp8 ? 1 : 0],
              together[i].usage.completion_tokens);
    for (size_t choice = 0; choice < alone.choices.size(); ++choice) {
      const std::vector<int32_t>& tokens = alone.choices[choice].tokens;
      EXPECT_EQ(static_cast<int64_t>(tokens.size()), *requests[i].sampling.max_tokens);
      EXPECT_EQ(together[i].choices[choice].tokens, tokens) << i;
      EXPECT_EQ(overlapped[i].choices[choice].tokens, tokens) << i;
      EXPECT_EQ(preempted[i].choices[choice].tokens, tokens) << i;
    }
  }
  Request other = requests[3];
  other.precision = PrecisionPin::kFp8;
  EXPECT_NE(Serve({other}, RunnerConfig())[0].choices[0].tokens, together[3].choices[0].tokens)
      << "the precisions can be told apart";
}

TEST_F(ReferenceModel, LogprobsAreTheSameHoweverAPromptIsCut) {
  Request request = MakeRequest(4, 90, 3);
  request.sampling.prompt_logprobs = 2;
  request.sampling.logprobs = 2;
  DecoderRunnerConfig narrow = RunnerConfig();
  narrow.max_num_batched_tokens = 24;
  narrow.max_logit_rows = 1;
  narrow.max_num_seqs = 3;
  const Collected wide = Serve({request}, RunnerConfig())[0];
  const Collected cut = Serve({request}, narrow)[0];
  ASSERT_EQ(wide.prompt_logprobs.size(), 90u);
  EXPECT_EQ(wide.prompt_logprobs, cut.prompt_logprobs);
  EXPECT_EQ(wide.choices[0].logprobs, cut.choices[0].logprobs);
}

TEST_F(ReferenceModel, RunsWithEveryKindOfCache) {
  const Request request = MakeRequest(2, 40, 20);
  std::map<DType, std::vector<int32_t>> tokens;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kF8E4M3}) {
    DecoderRunnerConfig config = RunnerConfig();
    config.kv_dtype = dtype;
    Request several = request;
    several.sampling.n = 2;  // copies a block
    const auto result = Serve({several}, config)[0];
    tokens[dtype] = result.choices[0].tokens;
    EXPECT_EQ(tokens[dtype].size(), 20u);
    EXPECT_EQ(result.choices[1].tokens, tokens[dtype]) << "both are greedy";
  }
  EXPECT_EQ(tokens[DType::kF32][0], tokens[DType::kF16][0]);
}

TEST_F(ReferenceModel, SaysWhatItCanDo) {
  const DecoderRunner nested(*model_, RunnerConfig(), threads_);
  EXPECT_EQ(nested.info().fp8_unsupported, "");
  EXPECT_EQ(nested.info().max_model_len, 1024);
  EXPECT_EQ(nested.info().max_steps_in_flight, 1);
  EXPECT_TRUE(nested.info().rows_independent) << "every kernel of a CPU's is";
  EXPECT_EQ(nested.CacheClass(10), nested.CacheClass(1000));
  LoadOptions options;
  options.scheme = kPlainWeights;
  const Model plain =
      LoadModel(std::filesystem::path(DUALFP_SOURCE_DIR) / "models/reference", options, *threads_);
  const DecoderRunner runner(plain, RunnerConfig(), threads_);
  EXPECT_NE(runner.info().fp8_unsupported.find("nested"), std::string::npos);
  EXPECT_EQ(KvBlocksInBytes(plain, DType::kF16, 10 * 16 * 2 * 2 * 64 * 2 * 8 + 1), 10);

  DecoderRunnerConfig bad = RunnerConfig();
  bad.max_model_len = 1025;
  EXPECT_THROW(DecoderRunner(plain, bad, threads_), Error);
  bad = RunnerConfig();
  bad.max_num_seqs = 65;
  EXPECT_THROW(DecoderRunner(plain, bad, threads_), Error);
}

}  // namespace
}  // namespace dualfp
