#include "dualfp/model/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "dualfp/kernels/embedding.h"
#include "dualfp/model/test_models.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/nested.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;

class WeightsTest : public ::testing::Test {
 protected:
  Model Load(const ModelConfig& config, LoadOptions options = {}, uint64_t seed = 1) {
    DummySource source(seed);
    return LoadModel(config, source, options, threads_);
  }

  // A weight's rows as floats, outliers included.
  std::vector<float> Values(const Weight& weight) {
    std::vector<int32_t> rows(weight.n);
    for (int32_t i = 0; i < weight.n; ++i) {
      rows[i] = i;
    }
    std::vector<float> values(weight.n * weight.k);
    Embedding({.threads = &threads_}, {.weight = &weight,
                                       .token = {rows.data(), DType::kI32, {weight.n}},
                                       .y = {values.data(), DType::kF32, {weight.n, weight.k}}});
    return values;
  }

  ThreadPool threads_{3};
};

TEST_F(WeightsTest, DummyWeightsAreNormalAndDependOnSeedAndNameOnly) {
  const ModelConfig config = SmallConfig(R"({"hidden_size": 256, "vocab_size": 2000})");
  const Model model = Load(config);
  const std::vector<float> table = Values(model.embedding.weight);
  double sum = 0, squares = 0, fourth = 0;
  for (const float x : table) {
    const double scaled = x * 16.0;  // standard deviation 1 / sqrt(256)
    sum += scaled;
    squares += scaled * scaled;
    fourth += scaled * scaled * scaled * scaled;
  }
  const auto count = static_cast<double>(table.size());
  EXPECT_NEAR(sum / count, 0, 5 / std::sqrt(count));
  EXPECT_NEAR(squares / count, 1, 5 * std::sqrt(2 / count));
  EXPECT_NEAR(fourth / count, 3, 5 * std::sqrt(96 / count));
  EXPECT_EQ(Values(Load(config).layers[1].qkv.weight), Values(model.layers[1].qkv.weight));
  EXPECT_NE(Values(Load(config, {}, 2).layers[1].qkv.weight), Values(model.layers[1].qkv.weight));
  EXPECT_NE(Values(model.layers[0].down.weight), Values(model.layers[1].down.weight));
}

TEST_F(WeightsTest, NestedHoldsTheSameWeightsAsPlain) {
  const ModelConfig config = SmallConfig();
  const Model plain = Load(config, {.scheme = kPlainWeights});
  const Model nested = Load(config, {.scheme = kNestedWeights});
  for (size_t layer = 0; layer < plain.layers.size(); ++layer) {
    for (size_t i = 0; i < plain.layers[layer].linears().size(); ++i) {
      const Weight& a = plain.layers[layer].linears()[i]->weight;
      const Weight& b = nested.layers[layer].linears()[i]->weight;
      EXPECT_EQ(a.format, QuantFormat::kPlain);
      EXPECT_EQ(b.format, QuantFormat::kNested);
      EXPECT_EQ(Values(a), Values(b));
    }
  }
  EXPECT_EQ(nested.lm_head.weight.format, QuantFormat::kPlain);
  const Model all = Load(config, {.nest_lm_head = true});
  EXPECT_EQ(all.lm_head.weight.format, QuantFormat::kNested);
  EXPECT_EQ(Values(all.lm_head.weight), Values(plain.lm_head.weight));
}

TEST_F(WeightsTest, TiedHeadSharesTheEmbedding) {
  const Model model = Load(SmallConfig(R"({"tie_word_embeddings": true})"));
  EXPECT_EQ(model.lm_head.weight.values.data, model.embedding.weight.values.data);
  EXPECT_EQ(model.report.linears.size(), 1u + 3 * 4);
}

TEST_F(WeightsTest, ShardsTogetherAreTheWhole) {
  const ModelConfig config = SmallConfig();
  const Model whole = Load(config);
  const int64_t dim = config.head_dim;
  for (int rank = 0; rank < 2; ++rank) {
    const Model part = Load(config, {.shard = {rank, 2}});
    EXPECT_EQ(part.heads(), 2);
    EXPECT_EQ(part.kv_heads(), 1);
    for (size_t l = 0; l < whole.layers.size(); ++l) {
      const auto expect_row = [&](const Linear& mine, int64_t row, const Linear& all,
                                  int64_t all_row, int64_t column) {
        const std::vector<float> a = Values(mine.weight);
        const std::vector<float> b = Values(all.weight);
        for (int64_t i = 0; i < mine.weight.k; ++i) {
          ASSERT_EQ(a[row * mine.weight.k + i], b[all_row * all.weight.k + column + i])
              << mine.name << " row " << row;
        }
      };
      const LayerWeights& mine = part.layers[l];
      const LayerWeights& all = whole.layers[l];
      expect_row(mine.qkv, 3, all.qkv, rank * 2 * dim + 3, 0);                  // q
      expect_row(mine.qkv, 2 * dim + 1, all.qkv, 4 * dim + rank * dim + 1, 0);  // k
      expect_row(mine.qkv, 3 * dim + 5, all.qkv, 6 * dim + rank * dim + 5, 0);  // v
      expect_row(mine.gate_up, 7, all.gate_up, rank * 72 + 7, 0);
      expect_row(mine.o, 40, all.o, 40, rank * 2 * dim);
      expect_row(mine.down, 11, all.down, 11, rank * 36);
      EXPECT_EQ(mine.down.weight.shard.column_begin, rank * 36);
      EXPECT_EQ(mine.qkv.weight.shard.row_begin, rank * mine.qkv.weight.n);
    }
  }
  EXPECT_THROW(Load(config, {.shard = {0, 3}}), Error);
  EXPECT_THROW(Load(config, {.shard = {2, 2}}), Error);
}

TEST_F(WeightsTest, RefillWritesInPlace) {
  Model model = Load(SmallConfig());
  Linear& gate_up = model.layers[1].gate_up;
  const void* planes = gate_up.weight.values.data;
  const std::vector<float> before = Values(gate_up.weight);
  std::mt19937 generator(3);
  std::normal_distribution<float> normal(0.0f, 0.6f);
  std::vector<uint16_t> codes(72 * 48);
  int64_t outliers = 0;
  for (uint16_t& code : codes) {
    code = FloatToFp16(normal(generator));
    outliers += NestedEligible(code) ? 0 : 1;
  }
  ASSERT_GT(outliers, 3);
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  for (int round = 0; round < 2; ++round) {
    model.Refill(name, {codes.data(), DType::kF16, {72, 48}}, threads_);
    EXPECT_EQ(gate_up.weight.values.data, planes);
    EXPECT_EQ(gate_up.weight.outliers.size(), outliers);
    const std::vector<float> after = Values(gate_up.weight);
    for (int64_t row = 0; row < 72; ++row) {
      for (int64_t i = 0; i < 48; ++i) {
        ASSERT_EQ(after[(2 * row + 1) * 48 + i], Fp16ToFloat(codes[row * 48 + i]));
        ASSERT_EQ(after[2 * row * 48 + i], before[2 * row * 48 + i]);
      }
    }
  }
  const auto refill = [&](const std::string& tensor, ConstTensorView view) {
    try {
      model.Refill(tensor, view, threads_);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(refill("model.norm.weight", {codes.data(), DType::kF16, {72, 48}}),
              HasSubstr("model.norm.weight"));
  EXPECT_THAT(refill(name, {codes.data(), DType::kF16, {48, 72}}), HasSubstr("[72, 48]"));
  codes[50] = 0x7e00;
  EXPECT_THAT(refill(name, {codes.data(), DType::kF16, {72, 48}}), HasSubstr("row 1, column 2"));
}

TEST_F(WeightsTest, ReportsProgressToTheEnd) {
  int64_t last = -1;
  int64_t total = 0;
  LoadOptions options;
  options.progress = [&](int64_t done, int64_t all) {
    EXPECT_GE(done, last);
    last = done;
    total = all;
  };
  const Model model = Load(SmallConfig(), options);
  EXPECT_EQ(last, total);
  EXPECT_GT(total, 0);
  EXPECT_EQ(model.report.LayerLinears(), 12);
  EXPECT_EQ(model.report.NestedLayerLinears(), 12);
}

}  // namespace
}  // namespace dualfp
