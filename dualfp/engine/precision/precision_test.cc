#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "dualfp/base/check.h"
#include "dualfp/base/error.h"
#include "dualfp/engine/precision/precision_controller.h"
#include "dualfp/engine/precision/precision_plan.h"
#include "dualfp/engine/precision/step_cost_model.h"
#include "dualfp/engine/testing/harness.h"

namespace dualfp {
namespace {

using testing::Collected;
using testing::CoreHarness;
using testing::ExpectedTokens;
using testing::SmallInfo;
using testing::UniformTag;

PrecisionPlan Plan(const std::string& layers) {
  PrecisionPlan plan;
  for (const char layer : layers) {
    plan.layers.push_back(layer == '8' ? Precision::kFp8 : Precision::kExact);
  }
  return plan;
}

std::string Text(const PrecisionPlan& plan) {
  std::string text;
  for (const Precision precision : plan.layers) {
    text += precision == Precision::kFp8 ? '8' : '6';
  }
  return text;
}

TEST(PrecisionPlan, ClassTagAndDescription) {
  EXPECT_EQ(ClassOf(Plan("6666")), PrecisionClass::kExact);
  EXPECT_EQ(ClassOf(Plan("8888")), PrecisionClass::kFp8);
  EXPECT_EQ(ClassOf(Plan("6866")), PrecisionClass::kMixed);
  EXPECT_EQ(Describe(Plan("6866")), "fp8 in 1 of 4 layers");
  EXPECT_EQ(Describe(Plan("8888")), "fp8");
  EXPECT_DOUBLE_EQ(Fp8Fraction(Plan("6868")), 0.5);

  std::vector<uint64_t> tags;
  for (int bits = 0; bits < 4096; ++bits) {
    std::string layers;
    for (int layer = 0; layer < 12; ++layer) {
      layers += (bits >> layer) & 1 ? '8' : '6';
    }
    tags.push_back(TagOf(Plan(layers)));
    EXPECT_NE(tags.back(), 0u);
  }
  std::sort(tags.begin(), tags.end());
  EXPECT_EQ(std::unique(tags.begin(), tags.end()), tags.end());
  EXPECT_EQ(TagOf(Plan("68")), TagOf(Plan("68")));
}

// A machine whose step times the cost model's form can express.
double TrueSeconds(const StepFeatures& step, double fp8_fraction) {
  const double fp16 = 0.004 + 30e-6 * static_cast<double>(step.prefill_tokens) +
                      50e-6 * static_cast<double>(step.decode_sequences) +
                      0.1e-6 * static_cast<double>(step.context_tokens);
  const double fp8 = 0.0022 + 18e-6 * static_cast<double>(step.prefill_tokens) +
                     30e-6 * static_cast<double>(step.decode_sequences) +
                     0.1e-6 * static_cast<double>(step.context_tokens);
  return (1.0 - fp8_fraction) * fp16 + fp8_fraction * fp8;
}

StepFeatures RandomStep(std::mt19937* random) {
  StepFeatures step;
  step.prefill_tokens = (*random)() % 2 == 0 ? 0 : static_cast<int64_t>((*random)() % 512);
  step.decode_sequences = 1 + static_cast<int64_t>((*random)() % 64);
  step.context_tokens =
      step.decode_sequences * static_cast<int64_t>(100 + (*random)() % 2000) + step.prefill_tokens;
  return step;
}

double WorstError(const StepCostModel& model, double machine_speed, std::mt19937* random) {
  double worst = 0.0;
  for (int i = 0; i < 200; ++i) {
    const StepFeatures step = RandomStep(random);
    for (const double fraction : {0.0, 0.5, 1.0}) {
      const double truth = TrueSeconds(step, fraction) * machine_speed;
      worst = std::max(worst, std::abs(model.Predict(step, fraction) - truth) / truth);
    }
  }
  return worst;
}

TEST(StepCostModel, LearnsBothPrecisionsThroughNoiseAndOutliers) {
  std::mt19937 random(1);
  std::normal_distribution<double> noise(0.0, 0.03);
  StepCostModel model;
  for (int i = 0; i < 600; ++i) {
    const StepFeatures step = RandomStep(&random);
    const double fraction = static_cast<double>(random() % 9) / 8.0;
    double seconds = TrueSeconds(step, fraction) * (1.0 + noise(random));
    if (random() % 50 == 0) {
      seconds *= 10.0;  // a page fault, a neighbour
    }
    model.Observe(step, fraction, seconds);
  }
  EXPECT_LT(WorstError(model, 1.0, &random), 0.1);
  EXPECT_LT(model.relative_error(), 0.15);
}

TEST(StepCostModel, FollowsAMachineThatBecomesSlower) {
  std::mt19937 random(2);
  StepCostModel model;
  for (const double speed : {1.0, 1.6}) {
    for (int i = 0; i < 1500; ++i) {
      const StepFeatures step = RandomStep(&random);
      const double fraction = static_cast<double>(random() % 2);
      model.Observe(step, fraction, speed * TrueSeconds(step, fraction));
    }
    EXPECT_LT(WorstError(model, speed, &random), 0.1);
  }
}

TEST(StepCostModel, RowsOfTwoPlansCostTheirShares) {
  std::mt19937 random(6);
  StepCostModel model;
  const auto truth = [](const StepFeatures& fp16, const StepFeatures& fp8) {
    return TrueSeconds(fp16, 0.0) + TrueSeconds(fp8, 1.0);
  };
  const auto work = [](const StepFeatures& fp16, const StepFeatures& fp8) {
    StepWork both;
    both.Add(fp16, 0.0);
    both.Add(fp8, 1.0);
    return both;
  };
  for (int i = 0; i < 600; ++i) {
    const StepFeatures a = RandomStep(&random);
    const StepFeatures b = RandomStep(&random);
    if (i % 3 == 0) {
      model.Observe(work(a, b), truth(a, b));
    } else {
      model.Observe(a, i % 3 - 1, TrueSeconds(a, i % 3 - 1));
    }
  }
  for (int i = 0; i < 100; ++i) {
    const StepFeatures a = RandomStep(&random);
    const StepFeatures b = RandomStep(&random);
    EXPECT_NEAR(model.Predict(work(a, b)) / truth(a, b), 1.0, 0.05);
  }
  EXPECT_LT(WorstError(model, 1.0, &random), 0.1);
}

TEST(StepCostModel, GuessesFp8UntilItHasSeenSome) {
  std::mt19937 random(3);
  StepCostModel model;
  EXPECT_EQ(model.Predict({0, 8, 100}, 0.0), 0.0);
  for (int i = 0; i < 100; ++i) {
    const StepFeatures step = RandomStep(&random);
    model.Observe(step, 0.0, TrueSeconds(step, 0.0));
  }
  const StepFeatures step = RandomStep(&random);
  EXPECT_NEAR(model.Predict(step, 1.0), 0.6 * model.Predict(step, 0.0), 1e-9);
  for (int i = 0; i < 100; ++i) {
    const StepFeatures seen = RandomStep(&random);
    model.Observe(seen, 1.0, TrueSeconds(seen, 1.0));
  }
  EXPECT_LT(WorstError(model, 1.0, &random), 0.1);
}

TEST(StepCostModel, StaysSoundWhenOnePrecisionIsNotSeenForLong) {
  std::mt19937 random(4);
  StepCostModel model;
  for (int i = 0; i < 20000; ++i) {
    const StepFeatures step = RandomStep(&random);
    const double fraction = i < 200 ? static_cast<double>(i % 2) : 0.0;
    model.Observe(step, fraction, TrueSeconds(step, fraction));
  }
  EXPECT_LT(WorstError(model, 1.0, &random), 0.1);
}

// A model that has learned TrueSeconds exactly enough.
StepCostModel TrainedModel() {
  std::mt19937 random(5);
  StepCostModel model;
  for (int i = 0; i < 1000; ++i) {
    const StepFeatures step = RandomStep(&random);
    const double fraction = static_cast<double>(random() % 9) / 8.0;
    model.Observe(step, fraction, TrueSeconds(step, fraction));
  }
  return model;
}

TEST(FixedController, AlwaysGivesItsPlan) {
  const auto controller = MakeFixedController(Plan("6886"));
  PrecisionPlan plan = Plan("8888");
  controller->Choose({}, &plan);
  EXPECT_EQ(plan, Plan("6886"));
  EXPECT_FALSE(controller->adaptive());
  EXPECT_EQ(controller->name(), "layers");
  EXPECT_EQ(MakeFixedController(Plan("88"))->name(), "fp8");
}

TEST(ThresholdController, Fp8ForLargeSteps) {
  const auto controller = MakeThresholdController(64);
  PrecisionPlan plan = Plan("6666");
  StepSummary step;
  step.batch_tokens = 64;
  controller->Choose(step, &plan);
  EXPECT_EQ(ClassOf(plan), PrecisionClass::kExact);
  step.batch_tokens = 65;
  controller->Choose(step, &plan);
  EXPECT_EQ(ClassOf(plan), PrecisionClass::kFp8);
  EXPECT_EQ(plan.lm_head, Precision::kFp8);
  EXPECT_TRUE(controller->adaptive());
}

class SloSlack : public ::testing::Test {
 protected:
  // Layers in FP8 for a step of 32 decodes whose tightest deadline is `slack` seconds away.
  std::string Choose(double slack, double at_seconds, int steps = 1) {
    const DeadlineSlack deadlines[] = {{1, 10.0, 1}, {2, slack, steps}};
    StepSummary step;
    step.now = start_ + std::chrono::duration_cast<Clock::duration>(
                            std::chrono::duration<double>(at_seconds));
    step.features = features_;
    step.pinned = pinned_;
    step.deadlines = deadlines;
    step.cost = &cost_;
    controller_->Choose(step, &plan_);
    return Text(plan_);
  }

  double Predicted(int layers) const {
    return (1.1 + cost_.relative_error()) * cost_.Predict(features_, layers / 8.0);
  }

  const StepCostModel cost_ = TrainedModel();
  const StepFeatures features_{0, 32, 32000};
  StepWork pinned_;
  const TimePoint start_ = Clock::now();
  PrecisionPlan plan_ = Plan("66666666");
  std::unique_ptr<PrecisionController> controller_ = MakeSloSlackController(8);
};

TEST_F(SloSlack, Fp16WithoutDeadlinesOrWithRoom) {
  StepSummary step;
  step.cost = &cost_;
  step.features = features_;
  controller_->Choose(step, &plan_);
  EXPECT_EQ(Text(plan_), "66666666");
  EXPECT_EQ(Choose(1.01 * Predicted(0), 0), "66666666");
}

TEST_F(SloSlack, TheFewestLayersThatMeetTheDeadline) {
  for (int layers = 1; layers <= 8; ++layers) {
    controller_ = MakeSloSlackController(8);
    const std::string chosen = Choose(0.5 * (Predicted(layers) + Predicted(layers - 1)), 0);
    EXPECT_EQ(std::count(chosen.begin(), chosen.end(), '8'), layers);
  }
  controller_ = MakeSloSlackController(8);
  EXPECT_EQ(Choose(1.01 * Predicted(2), 0), "66688666") << "from the middle";
  EXPECT_EQ(plan_.lm_head, Precision::kExact);
}

TEST_F(SloSlack, SeveralStepsShareTheSlack) {
  EXPECT_EQ(Choose(3 * 1.01 * Predicted(0), 0, 3), "66666666");
  EXPECT_EQ(Choose(3 * 1.01 * Predicted(2), 0, 3), "66688666");
}

TEST_F(SloSlack, AllLayersWhereNoneSuffices) {
  EXPECT_EQ(Choose(0.1 * Predicted(8), 0), "88888888");
  EXPECT_EQ(plan_.lm_head, Precision::kFp8);
  controller_ = MakeSloSlackController(8);
  EXPECT_EQ(Choose(-1.0, 0), "88888888");
}

TEST_F(SloSlack, NoLayersWhereNoneSufficesAndFp8IsSlower) {
  // A machine whose FP8 is the slower one.
  StepCostModel cost;
  std::mt19937 random(3);
  for (int i = 0; i < 400; ++i) {
    const StepFeatures step = RandomStep(&random);
    const double fraction = i % 3 * 0.5;
    cost.Observe(step, fraction, TrueSeconds(step, 1.0 - fraction));
  }
  const DeadlineSlack deadlines[] = {{1, -1.0, 1}};
  StepSummary step;
  step.now = start_;
  step.features = features_;
  step.deadlines = deadlines;
  step.cost = &cost;
  controller_->Choose(step, &plan_);
  EXPECT_EQ(Text(plan_), "66666666");
  step.cost = &cost_;
  controller_->Choose(step, &plan_);
  EXPECT_EQ(Text(plan_), "88888888");
}

TEST_F(SloSlack, AttacksAtOnceAndReleasesSlowly) {
  EXPECT_EQ(Choose(-1.0, 0.0), "88888888");
  EXPECT_EQ(Choose(5.0, 0.1), "88888888");
  EXPECT_EQ(Choose(5.0, 0.13), "88888886") << "an eighth of release_seconds (1) has passed";
  EXPECT_EQ(Choose(5.0, 0.2), "88888886");
  EXPECT_EQ(Choose(5.0, 0.51), "66888866");
  EXPECT_EQ(Choose(-1.0, 0.52), "88888888") << "attack";
  EXPECT_EQ(Choose(5.0, 0.60), "88888888") << "and the clock of the release begins again";
  EXPECT_EQ(Choose(5.0, 2.0), "66666666");
}

TEST_F(SloSlack, FollowsTheGivenOrderAndGranularity) {
  SloSlackOptions options;
  options.layer_order = {7, 0, 1, 2, 3, 4, 5, 6};
  options.granularity = 3;
  controller_ = MakeSloSlackController(8, options);
  EXPECT_EQ(Choose(1.01 * Predicted(1), 0), "88666668");
  EXPECT_EQ(Choose(1.01 * Predicted(4), 0), "88888668");
  EXPECT_EQ(Choose(1.001 * Predicted(7), 0), "88888888");
}

TEST_F(SloSlack, CountsWhatPinnedRowsTake) {
  const double slack = 1.01 * Predicted(2);
  EXPECT_EQ(Choose(slack, 0), "66688666");
  // Rows in FP16 read those weights anyway: FP8 for the others reads more, and is not faster.
  controller_ = MakeSloSlackController(8);
  pinned_.Add({0, 8, 8000}, 0.0);
  EXPECT_EQ(Choose(slack, 0), "66666666");
  // Beside rows in FP8 every layer in FP8 saves its FP16 weights.
  controller_ = MakeSloSlackController(8);
  pinned_ = {};
  pinned_.Add({0, 1, 1000}, 1.0);
  EXPECT_EQ(Choose(0.0, 0), "88888888");
}

TEST_F(SloSlack, RefusesBadOptions) {
  SloSlackOptions options;
  options.layer_order = {0, 1, 1};
  EXPECT_THROW(MakeSloSlackController(3, options), Error);
  options.layer_order = {0, 1};
  EXPECT_THROW(MakeSloSlackController(3, options), Error);
  options = {};
  options.safety = 0.5;
  EXPECT_THROW(MakeSloSlackController(3, options), Error);
}

Request MakeRequest(PrecisionPin pin, int prompt, int64_t max_tokens) {
  Request request;
  request.prompt.resize(prompt, 3);
  request.precision = pin;
  request.sampling.max_tokens = max_tokens;
  request.sampling.seed = 1;
  return request;
}

// The plans of a step's rows in order: "4x6 4xm" for four rows in FP16 and four of a mixed plan.
std::string RangesOf(const StepBatch& batch) {
  std::string text;
  for (const PlanRange& range : batch.plans()) {
    const PrecisionClass c = ClassOf(*range.plan);
    text += StrCat(text.empty() ? "" : " ", range.end - range.begin, "x",
                   c == PrecisionClass::kExact ? "6"
                   : c == PrecisionClass::kFp8 ? "8"
                                               : "m");
  }
  return text;
}

TEST(Pins, RunBesideEachOther) {
  const PrecisionPlan mixed = Plan("6886");
  CoreHarness harness({}, SmallInfo(), MakeFixedController(mixed));
  std::vector<std::string> steps;
  harness.runner().before = [&](const StepBatch& batch) { steps.push_back(RangesOf(batch)); };
  std::vector<Request> requests = {MakeRequest(PrecisionPin::kAuto, 4, 9),
                                   MakeRequest(PrecisionPin::kFp8, 4, 6),
                                   MakeRequest(PrecisionPin::kExact, 4, 3)};
  std::vector<Collected*> results;
  for (const Request& request : requests) {
    results.push_back(harness.Submit(request));
  }
  harness.Run();
  EXPECT_EQ(steps, (std::vector<std::string>{"4x6 4xm 4x8", "1x6 1xm 1x8", "1x6 1xm 1x8", "1xm 1x8",
                                             "1xm 1x8", "1xm 1x8", "1xm", "1xm", "1xm"}));
  const uint64_t tags[] = {TagOf(mixed), UniformTag(SmallInfo(), Precision::kFp8),
                           UniformTag(SmallInfo(), Precision::kExact)};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(results[i]->choices[0].tokens,
              ExpectedTokens(requests[i], 0, 1, tags[i], SmallInfo(), {}));
  }
  EXPECT_EQ(results[0]->usage.completion_by_precision, (TokensByPrecision{0, 0, 0, 9}));
  EXPECT_EQ(results[1]->usage.completion_by_precision, (TokensByPrecision{0, 6, 0, 0}));
  EXPECT_EQ(results[2]->usage.completion_by_precision, (TokensByPrecision{3, 0, 0, 0}));
  EXPECT_EQ(results[1]->usage.prompt_by_precision, (TokensByPrecision{0, 4, 0, 0}));
  EXPECT_EQ(harness.metrics().precision_tokens_total[0].value(), 4u + 2);
  EXPECT_EQ(harness.metrics().precision_tokens_total[1].value(), 4u + 5);
  EXPECT_EQ(harness.metrics().precision_tokens_total[3].value(), 4u + 8);
  EXPECT_EQ(harness.metrics().precision_switches_total.value(), 0u);
  EXPECT_DOUBLE_EQ(harness.metrics().precision_mode.value(), 0.5);
}

TEST(Pins, OfTheControllersPrecisionShareItsRange) {
  CoreHarness harness({}, SmallInfo(),
                      MakeFixedController(PrecisionPlan::Uniform(4, Precision::kFp8)));
  std::vector<std::string> steps;
  harness.runner().before = [&](const StepBatch& batch) { steps.push_back(RangesOf(batch)); };
  harness.Submit(MakeRequest(PrecisionPin::kFp8, 4, 2));
  harness.Submit(MakeRequest(PrecisionPin::kAuto, 4, 2));
  harness.Submit(MakeRequest(PrecisionPin::kExact, 4, 2));
  harness.Run();
  EXPECT_EQ(steps, (std::vector<std::string>{"4x6 8x8", "1x6 2x8"}));
}

TEST(PhasedController, PromptsInFp8AndTheRestExact) {
  RunnerInfo info = SmallInfo();
  info.num_blocks = 24;  // too few for all at once
  EngineConfig config;
  config.max_num_batched_tokens = 16;
  CoreHarness harness(config, info, MakePhasedController(Plan("8888"), Plan("6666")));
  std::vector<std::string> steps;
  harness.runner().before = [&](const StepBatch& batch) { steps.push_back(RangesOf(batch)); };
  const uint64_t fp16 = UniformTag(info, Precision::kExact);
  const uint64_t fp8 = UniformTag(info, Precision::kFp8);
  std::vector<Request> requests;
  std::vector<Collected*> results;
  for (int i = 0; i < 6; ++i) {
    requests.push_back(MakeRequest(PrecisionPin::kAuto, 10 + i, 30));
    requests.back().prompt[3] = i;
    results.push_back(harness.Submit(requests.back()));
  }
  harness.Run();
  EXPECT_GT(harness.metrics().num_preemptions_total.value(), 0u);
  EXPECT_NE(std::find(steps.begin(), steps.end(), "1x6 15x8"), steps.end());
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(results[i]->choices[0].tokens,
              ExpectedTokens(requests[i], 0, 1, fp16, info, {}, fp8));
    EXPECT_EQ(results[i]->usage.completion_by_precision[0], 29);
    EXPECT_EQ(results[i]->usage.completion_by_precision[1], 1) << "the first comes of the prompt";
  }
  // What is computed again after a preemption, and a prompt that goes on from an output.
  Request next = requests[0];
  next.prompt.insert(next.prompt.end(), results[0]->choices[0].tokens.begin(),
                     results[0]->choices[0].tokens.end());
  Collected* again = harness.Submit(requests[0]);
  Collected* turn = harness.Submit(next);
  harness.Run();
  EXPECT_EQ(again->choices[0].tokens, results[0]->choices[0].tokens);
  EXPECT_EQ(turn->choices[0].tokens, ExpectedTokens(next, 0, 1, fp16, info, {}, fp8));
}

// A service on a machine with TrueSeconds' speed and a clock of its own.
struct Service {
  double late_fraction = 0.0;  // requests whose TPOT or TTFT target was missed
  double fp8_fraction = 0.0;   // of rows, once the cost model has learned
};

Service Simulate(std::shared_ptr<PrecisionController> controller, int concurrency) {
  RunnerInfo info = SmallInfo();
  info.num_layers = 8;
  info.num_blocks = 4096;
  info.max_rows = 512;
  info.max_sequences = 64;
  info.max_logit_rows = 64;
  TimePoint now = Clock::now();
  EngineConfig config;
  config.now = [&now] { return now; };
  config.default_ttft_target = 0.5;
  config.default_tpot_target = 0.0062;
  CoreHarness harness(config, info, std::move(controller));
  harness.runner().before = [&](const StepBatch& batch) {
    StepFeatures features;
    for (size_t s = 0; s < batch.context_length().size(); ++s) {
      const int count = batch.query_start()[s + 1] - batch.query_start()[s];
      features.prefill_tokens += count > 1 ? count : 0;
      features.decode_sequences += count == 1;
      features.context_tokens += batch.context_length()[s];
    }
    now += std::chrono::duration_cast<Clock::duration>(
        std::chrono::duration<double>(TrueSeconds(features, Fp8Fraction(*batch.plans()[0].plan))));
  };
  std::vector<Collected*> results;
  std::mt19937 random(7);
  const auto fp16_rows = [&] { return harness.metrics().precision_tokens_total[0].value(); };
  const auto all_rows = [&] {
    uint64_t rows = 0;
    for (const Counter& counter : harness.metrics().precision_tokens_total) {
      rows += counter.value();
    }
    return rows;
  };
  uint64_t fp16_before = 0;
  uint64_t all_before = 0;
  for (int round = 0; round < 800; ++round) {
    if (round == 400) {
      fp16_before = fp16_rows();
      all_before = all_rows();
    }
    while (harness.core().num_requests() < static_cast<size_t>(concurrency)) {
      Request request = MakeRequest(PrecisionPin::kAuto, 4 + static_cast<int>(random() % 20),
                                    30 + static_cast<int>(random() % 60));
      request.arrival = now;
      results.push_back(harness.Submit(request));
    }
    harness.core().Step();
  }
  harness.Run();
  Service service;
  int late = 0;
  for (const Collected* result : results) {
    const auto tokens = static_cast<double>(result->usage.completion_tokens);
    const double tpot =
        std::chrono::duration<double>(result->timing.last_token - result->timing.first_token)
            .count() /
        (tokens - 1);
    const double ttft =
        std::chrono::duration<double>(result->timing.first_token - result->timing.arrival).count();
    late += tpot > config.default_tpot_target || ttft > config.default_ttft_target;
  }
  service.late_fraction = late / static_cast<double>(results.size());
  service.fp8_fraction = 1.0 - static_cast<double>(fp16_rows() - fp16_before) /
                                   static_cast<double>(all_rows() - all_before);
  return service;
}

TEST(SloSlackService, MeetsDeadlinesUnderLoadAndStaysFp16Without) {
  // 48 decodes take 6.4 ms in FP16, more than the target of 6.2 ms, and 3.6 ms in FP8.
  const auto fixed = [] {
    return std::shared_ptr(MakeFixedController(PrecisionPlan::Uniform(8, Precision::kExact)));
  };
  const auto slack = [] { return std::shared_ptr(MakeSloSlackController(8)); };
  EXPECT_GT(Simulate(fixed(), 48).late_fraction, 0.9);
  const Service busy = Simulate(slack(), 48);
  EXPECT_LT(busy.late_fraction, 0.02);
  EXPECT_GT(busy.fp8_fraction, 0.1);
  const Service quiet = Simulate(slack(), 4);
  EXPECT_EQ(quiet.late_fraction, 0.0);
  EXPECT_EQ(quiet.fp8_fraction, 0.0);
}

}  // namespace
}  // namespace dualfp
