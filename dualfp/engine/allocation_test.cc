// No allocation per step once warm: counted by replacing the global operator new, hence a binary of
// its own.

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "dualfp/base/testing/count_allocations.h"
#include "dualfp/engine/decoder_runner.h"
#include "dualfp/engine/testing/fake_vocabulary.h"
#include "dualfp/engine/testing/harness.h"
#include "dualfp/model/weights.h"

namespace dualfp {
namespace {

TEST(AllocationTest, TheCounterCounts) {
  const int64_t before = CountAllocations();
  auto* value = new std::string(100, 'x');
  EXPECT_GE(CountAllocations() - before, 2);
  delete value;
}

struct Pipeline {
  int steps_in_flight;
  int draft_tokens;
};

class Allocation : public ::testing::TestWithParam<Pipeline> {};

TEST_P(Allocation, NoneInAStepOnceWarm) {
  RunnerInfo info = testing::SmallInfo();
  info.max_steps_in_flight = GetParam().steps_in_flight;
  info.max_draft_tokens = GetParam().draft_tokens;
  info.max_model_len = 512;
  info.num_blocks = 64 * 128;
  info.max_rows = 256;
  info.max_sequences = 64;
  info.max_logit_rows = 256;
  EngineConfig config;
  const auto vocabulary = testing::FakeVocabulary::Ascii();
  testing::FakeRunner runner(info);
  EngineMetrics metrics(info.max_model_len);
  EngineCore core(config, &runner, vocabulary.get(), MakeSloSlackController(info.num_layers),
                  &metrics, {1, 2});
  int64_t outputs = 0;
  RequestContext context{
      info.vocab_size, info.max_model_len, info.block_size, vocabulary.get(), {}};
  context.max_draft_tokens = info.max_draft_tokens;
  // Few enough that no request comes to its end.
  const int warm_steps = info.max_draft_tokens > 0 ? 30 : 60;
  const int steps = info.max_draft_tokens > 0 ? 60 : 200;
  for (int i = 0; i < 64; ++i) {
    Request request;
    request.prompt.assign(10 + i, i);
    request.ttft_target = 1.0;
    request.tpot_target = 1e-6 * i;
    SamplingParams& sampling = request.sampling;
    sampling.max_tokens = 400;
    sampling.temperature = i % 4 == 0 ? 0.0f : 0.9f;
    sampling.top_p = i % 3 == 0 ? 0.9f : 1.0f;
    sampling.top_k = i % 5 == 0 ? 20 : 0;
    sampling.min_p = i % 7 == 0 ? 0.05f : 0.0f;
    sampling.repetition_penalty = i % 6 == 0 ? 1.1f : 1.0f;
    sampling.presence_penalty = i % 8 == 0 ? 0.5f : 0.0f;
    sampling.logprobs = i % 9 == 0 ? std::optional<int>(5) : std::nullopt;
    if (i % 2 == 0) {
      sampling.stop = {"\x01\x02 never", "ab\x03"};
    }
    auto state = MakeRequestState(
        request, [&](const RequestOutput& output) { outputs += !output.choices.empty(); }, i,
        context);
    state->id = i + 1;
    core.Add(std::move(state));
  }
  for (int step = 0; step < warm_steps; ++step) {
    core.Step();
  }
  ASSERT_EQ(core.scheduler().running().size(), 64u);
  outputs = 0;
  const int64_t before = CountAllocations();
  for (int step = 0; step < steps; ++step) {
    core.Step();
  }
  EXPECT_EQ(CountAllocations() - before, 0);
  EXPECT_EQ(outputs, steps * 64);
  EXPECT_EQ(runner.num_drafted() > 0, info.max_draft_tokens > 0);
  EXPECT_GT(metrics.precision_switches_total.value() + metrics.precision_tokens_total[1].value(),
            0u);
}

INSTANTIATE_TEST_SUITE_P(Pipelines, Allocation,
                         ::testing::Values(Pipeline{1, 0}, Pipeline{2, 0}, Pipeline{1, 3}));

// The same over the reference model, whose decoder must not allocate either, at both precisions.
TEST(AllocationTest, NoneInAStepOfTheReferenceModel) {
  ThreadPool threads(2);
  LoadOptions options;
  options.scheme = kNestedWeights;
  const Model model =
      LoadModel(std::filesystem::path(DUALFP_SOURCE_DIR) / "models/reference", options, threads);
  DecoderRunnerConfig runner_config;
  runner_config.num_blocks = 64 * 8;
  runner_config.max_num_seqs = 64;
  runner_config.max_num_batched_tokens = 256;
  DecoderRunner runner(model, runner_config, &threads);
  const RunnerInfo& info = runner.info();
  EngineConfig config;
  EngineMetrics metrics(info.max_model_len);
  EngineCore core(config, &runner, nullptr, MakeSloSlackController(info.num_layers), &metrics,
                  {1, 2});
  const RequestContext context{info.vocab_size, info.max_model_len, info.block_size, nullptr, {}};
  int64_t outputs = 0;
  for (int i = 0; i < 64; ++i) {
    Request request;
    request.prompt.assign(8 + i % 8, 100 + i);
    request.sampling.max_tokens = 100;
    request.sampling.ignore_eos = true;
    auto state = MakeRequestState(
        request, [&](const RequestOutput& output) { outputs += !output.choices.empty(); }, i,
        context);
    state->id = i + 1;
    core.Add(std::move(state));
  }
  const auto run_at = [&](Precision precision) {
    core.SetController(MakeFixedController(PrecisionPlan::Uniform(info.num_layers, precision)));
    const int64_t before = CountAllocations();
    for (int step = 0; step < 15; ++step) {
      core.Step();
    }
    return CountAllocations() - before;
  };
  run_at(Precision::kExact);
  run_at(Precision::kFp8);
  ASSERT_EQ(core.scheduler().running().size(), 64u);
  outputs = 0;
  EXPECT_EQ(run_at(Precision::kExact), 0);
  EXPECT_EQ(run_at(Precision::kFp8), 0);
  EXPECT_EQ(outputs, 2 * 15 * 64);
}

}  // namespace
}  // namespace dualfp
