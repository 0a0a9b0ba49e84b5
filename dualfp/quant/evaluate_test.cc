#include "dualfp/quant/evaluate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "dualfp/base/check.h"
#include "dualfp/base/error.h"
#include "dualfp/model/test_models.h"
#include "dualfp/model/weights.h"
#include "dualfp/quant/calibration/calibrate.h"

namespace dualfp {
namespace {

using ::testing::Each;
using ::testing::Eq;
using ::testing::Gt;

const std::filesystem::path kModel = DUALFP_REFERENCE_MODEL;

TEST(SlidingWindows, ScoreEveryTokenOnceWithEnoughContext) {
  for (const int64_t count : {2, 3, 7, 8, 9, 12, 13, 16, 31, 32, 33, 1000}) {
    for (const int64_t stride : {1, 3, 4, 7}) {
      constexpr int64_t kContext = 8;
      int64_t next = 1;
      for (const EvaluationWindow& window : SlidingWindows(count, kContext, stride)) {
        EXPECT_EQ(window.scored, next);
        EXPECT_GT(window.end, window.scored);
        EXPECT_LE(window.end - window.begin, kContext);
        EXPECT_TRUE(window.begin == 0 || window.scored - window.begin >= kContext - stride);
        next = window.end;
      }
      EXPECT_EQ(next, count);
    }
  }
}

TEST(SlidingWindows, DisjointWindowsSkipTheirFirstToken) {
  const auto windows = SlidingWindows(17, 8, 8);
  ASSERT_EQ(windows.size(), 2u);  // the third would hold one token, which nothing predicts
  EXPECT_EQ(windows[1].begin, 8);
  EXPECT_EQ(windows[1].scored, 9);
  EXPECT_EQ(windows[1].end, 16);
}

TEST(SlidingWindows, RejectsWhatCannotBeScored) {
  EXPECT_THROW(SlidingWindows(1, 8, 4), Error);
  EXPECT_THROW(SlidingWindows(9, 1, 1), Error);
  EXPECT_THROW(SlidingWindows(9, 8, 0), Error);
  EXPECT_THROW(SlidingWindows(9, 8, 9), Error);
}

TEST(CompareLogitRows, KnownDistributions) {
  // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4), each shifted by a constant.
  const float first[] = {std::log(2.0f) + 5, 5, 5};
  const float second[] = {-3, std::log(2.0f) - 3, -3};
  const LogitRowComparison row = CompareLogitRows(first, second);
  EXPECT_NEAR(row.kl, 0.25 * std::log(2.0), 1e-6);
  EXPECT_NEAR(row.largest_difference, 8 + std::log(2.0), 1e-5);
  EXPECT_FALSE(row.same_top);
  const LogitRowComparison same = CompareLogitRows(first, first);
  EXPECT_EQ(same.kl, 0);
  EXPECT_TRUE(same.same_top);
}

class EvaluateTest : public ::testing::Test {
 protected:
  static Model Load(const WeightScheme& scheme, bool lm_head = false) {
    ThreadPool threads(2);
    LoadOptions options;
    options.scheme = scheme;
    options.nest_lm_head = lm_head;
    return LoadModel(kModel, options, threads);
  }
  static DecoderOptions Options(int64_t rows = 64) {
    return {.limits = {.max_tokens = rows, .max_logit_rows = rows, .max_context = 64}};
  }
  std::vector<TokenScores> Run(std::span<const Subject> subjects) {
    return Evaluate(context_, DType::kF32, tokens_, SlidingWindows(160, 64, 32), subjects);
  }
  PrecisionPlan Uniform(Precision precision) { return PrecisionPlan::Uniform(8, precision); }

  void SetUp() override {
    for (int32_t i = 0; i < 160; ++i) {
      tokens_.push_back(300 + i * i % 97);
    }
  }

  ThreadPool threads_{2};
  Context context_{.threads = &threads_};
  std::vector<int32_t> tokens_;
};

TEST_F(EvaluateTest, AgreesWithItselfHoweverItIsCut) {
  const Model model = Load(kNestedWeights);
  Decoder whole(model, Options());
  Decoder cut(model, Options(7));
  const PrecisionPlan fp16 = Uniform(Precision::kExact);
  const PrecisionPlan fp8 = Uniform(Precision::kFp8);
  const auto scores = Run(std::vector<Subject>{{&whole, &fp16}, {&cut, &fp16}, {&whole, &fp8}});
  EXPECT_EQ(scores[0].loss.size(), 159u);
  EXPECT_TRUE(scores[0].kl.empty());
  EXPECT_EQ(scores[0].loss, scores[1].loss);
  EXPECT_THAT(scores[1].kl, Each(Eq(0)));
  EXPECT_THAT(scores[1].same_top, Each(Eq(1)));
  EXPECT_THAT(scores[2].kl, Each(Gt(0)));
  const auto alone = Run(std::vector<Subject>{{&whole, &fp8}});
  EXPECT_EQ(alone[0].loss, scores[2].loss);
}

TEST_F(EvaluateTest, PlanOfLinearLayersRefinesThePlanOfLayers) {
  const Model model = Load(kNestedWeights);
  Decoder decoder(model, Options());
  const PrecisionPlan layers = [&] {
    PrecisionPlan plan = Uniform(Precision::kExact);
    plan.layers[3] = Precision::kFp8;
    return plan;
  }();
  PrecisionPlan linears = Uniform(Precision::kExact);
  linears.linears.assign(8 * kLinearsPerLayer, Precision::kExact);
  PrecisionPlan one = linears;
  for (int64_t kind = 0; kind < kLinearsPerLayer; ++kind) {
    linears.linears[3 * kLinearsPerLayer + kind] = Precision::kFp8;
  }
  one.linears[3 * kLinearsPerLayer + static_cast<int64_t>(LinearKind::kDown)] = Precision::kFp8;
  EXPECT_EQ(decoder.CostOf(layers).weight_bytes, decoder.CostOf(linears).weight_bytes);
  EXPECT_EQ(decoder.CostOf(one).linears_at_fp8, 1);
  const auto scores =
      Run(std::vector<Subject>{{&decoder, &layers}, {&decoder, &linears}, {&decoder, &one}});
  EXPECT_EQ(scores[0].loss, scores[1].loss);
  EXPECT_NE(scores[0].loss, scores[2].loss);

  one.linears.pop_back();
  EXPECT_THROW(Run(std::vector<Subject>{{&decoder, &one}}), Error);
}

TEST_F(EvaluateTest, StaticScalesAreTheLargestInputsOver448) {
  Model model = Load(kFp8PerChannel);
  DecoderOptions options = Options();
  options.activation_quant = ActivationQuant::kStaticPerTensor;
  EXPECT_THROW(Decoder(model, options), Error);  // not calibrated

  CalibrateInputScales(context_, model, tokens_, 64);
  Decoder decoder(model, options);
  const PrecisionPlan fp8 = Uniform(Precision::kFp8);
  std::map<std::string, float> largest;
  DecoderOptions observing = Options();
  observing.observe_input = [&](const Linear& linear, const ConstTensorView& x) {
    for (int64_t i = 0; i < x.num_elements(); ++i) {
      largest[linear.name] = std::max(largest[linear.name], std::fabs(x.as<float>()[i]));
    }
  };
  Decoder observer(model, observing);
  const PrecisionPlan fp16 = Uniform(Precision::kExact);
  Evaluate(context_, DType::kF32, tokens_, SlidingWindows(160, 64, 64),
           std::vector<Subject>{{&observer, &fp16}});
  for (const LayerWeights& layer : model.layers) {
    for (const Linear* linear : layer.linears()) {
      EXPECT_EQ(*linear->weight.input_scale.as<float>(), largest.at(linear->name) / 448.0f)
          << linear->name;
    }
  }
  const auto scores = Run(std::vector<Subject>{{&decoder, &fp8}});
  for (const double loss : scores[0].loss) {
    EXPECT_TRUE(std::isfinite(loss));
  }
}

TEST_F(EvaluateTest, Fp8FormatsAreCloseToPlain) {
  const Model plain = Load(kPlainWeights);
  Decoder reference(plain, Options());
  const PrecisionPlan fp16 = Uniform(Precision::kExact);
  const PrecisionPlan fp8 = Uniform(Precision::kFp8);
  for (const WeightScheme& scheme : {kFp8PerTensor, kFp8PerChannel, kFp8PerBlock}) {
    const Model model = Load(scheme);
    EXPECT_EQ(model.report.Fp8LayerLinears(), 32);
    EXPECT_EQ(model.report.NestedLayerLinears(), 0);
    Decoder decoder(model, Options());
    const auto scores = Run(std::vector<Subject>{{&reference, &fp16}, {&decoder, &fp8}});
    double sum = 0;
    for (const double kl : scores[1].kl) {
      sum += kl;
    }
    EXPECT_GT(sum / 159, 1e-5);
    EXPECT_LT(sum / 159, 0.05);
  }
  EXPECT_THROW(Load(kFp8PerTensor, true), Error);  // lm_head is the embedding table
}

// Whatever the table names loads and runs at every precision that it offers.
TEST_F(EvaluateTest, EverySchemeIsCloseToPlain) {
  const ModelConfig config =
      SmallConfig(R"({"hidden_size": 128, "intermediate_size": 96, "vocab_size": 500})");
  const auto load = [&](const std::optional<WeightScheme>& scheme) {
    DummySource source(4);
    return LoadModel(config, source, {.scheme = scheme}, threads_);
  };
  const Model plain = load(kPlainWeights);
  Decoder reference(plain, Options());
  const PrecisionPlan exact = PrecisionPlan::Uniform(3, Precision::kExact);
  for (const NamedScheme& named : WeightSchemes()) {
    const Model model = load(named.scheme);
    const QuantFormatInfo& info = GetQuantFormatInfo(model.layers[0].qkv.weight.format);
    Decoder decoder(model, Options());
    for (const Precision precision : {Precision::kExact, Precision::kFp8}) {
      if (!Offers(info, precision)) {
        continue;
      }
      SCOPED_TRACE(StrCat(named.name, " at ", PrecisionName(precision)));
      const PrecisionPlan plan = PrecisionPlan::Uniform(3, precision);
      const auto scores = Run(std::vector<Subject>{{&reference, &exact}, {&decoder, &plan}});
      double sum = 0;
      for (const double kl : scores[1].kl) {
        sum += kl;
      }
      // Dummy weights are F16, which 12 bits round to BF16.
      const bool is_exact = precision == Precision::kExact && info.codec.bits == 0 &&
                            named.scheme != kNested12Weights;
      EXPECT_EQ(sum == 0, is_exact);
      EXPECT_LT(sum / 159, info.codec.bits == 4 ? 0.2 : 0.03);
    }
  }
}

}  // namespace
}  // namespace dualfp
