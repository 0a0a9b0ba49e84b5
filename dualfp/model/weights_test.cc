#include "dualfp/model/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "dualfp/kernels/embedding.h"
#include "dualfp/kernels/quantize_weight.h"
#include "dualfp/kernels/reference/rows.h"
#include "dualfp/model/test_models.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/e8m0.h"
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

// Codes and scales of one projection, as if it were alone.
struct Quantized {
  std::vector<uint8_t> codes;
  std::vector<uint8_t> scales;
  float global_scale = 1.0f;
};

Quantized QuantizeAlone(const std::vector<float>& values, int64_t n, int64_t k,
                        const WeightScheme& scheme, ThreadPool& threads) {
  const QuantFormatInfo& info = GetQuantFormatInfo(scheme.format);
  const auto [rows, columns] = ScaleShape(scheme, n, k);
  const int64_t code_columns = k * info.codec.bits / 8;
  Quantized result;
  result.codes.resize(n * code_columns);
  result.scales.resize(rows * columns * DTypeSize(info.scales));
  QuantizeWeight({.threads = &threads}, {values.data(), DType::kF32, {n, k}}, scheme,
                 {result.codes.data(), info.values, {n, code_columns}},
                 {result.scales.data(), info.scales, {rows, columns}},
                 {&result.global_scale, DType::kF32, {1}});
  return result;
}

// Every scheme of the table loads, each projection with codes and scales of its own: as one that is
// alone in its weight.
TEST_F(WeightsTest, EverySchemeQuantizesEachProjectionByItself) {
  // Rows of q, k and v, and of gate and up, that end within blocks of 128.
  const ModelConfig config =
      SmallConfig(R"({"hidden_size": 160, "intermediate_size": 224, "num_hidden_layers": 1})");
  const Model plain = Load(config, {.scheme = kPlainWeights});
  for (const NamedScheme& named : WeightSchemes()) {
    if (!named.scheme.has_value() || GetQuantFormatInfo(named.scheme->format).codec.bits == 0) {
      continue;
    }
    SCOPED_TRACE(named.name);
    const QuantFormatInfo& info = GetQuantFormatInfo(named.scheme->format);
    const Model model = Load(config, {.scheme = named.scheme});
    for (size_t i = 0; i < plain.layers[0].linears().size(); ++i) {
      const Linear& linear = *model.layers[0].linears()[i];
      const Weight& weight = linear.weight;
      const std::vector<float> all = Values(plain.layers[0].linears()[i]->weight);
      const int64_t k = weight.k;
      for (const LinearPart& part : linear.parts) {
        std::vector<float> values;
        for (int64_t row = 0; row < part.rows; ++row) {
          const auto begin = all.begin() + (part.dest_begin + row * part.dest_step) * k;
          values.insert(values.end(), begin, begin + k);
        }
        const Quantized alone = QuantizeAlone(values, part.rows, k, *named.scheme, threads_);
        const auto [scale_rows, scale_columns] = ScaleShape(*named.scheme, part.rows, k);
        const int64_t row_bytes = k * info.codec.bits / 8;
        const int64_t scale_width = scale_columns == 1    ? k
                                    : info.group_size > 0 ? info.group_size
                                                          : 128;
        for (int64_t row = 0; row < part.rows; ++row) {
          const int64_t dest = part.dest_begin + row * part.dest_step;
          ASSERT_EQ(std::memcmp(weight.values.as<uint8_t>() + dest * row_bytes,
                                alone.codes.data() + row * row_bytes, row_bytes),
                    0)
              << linear.name << " row " << dest;
          std::vector<float> decoded(k);
          reference::DecodeWeightRow(weight, Precision::kExact, dest, decoded.data());
          for (int64_t column = 0; column < k; ++column) {
            const int64_t scale_row = scale_rows == part.rows ? row
                                      : scale_rows == 1       ? 0
                                                              : row / 128;
            const int64_t at = scale_row * scale_columns + column / scale_width;
            const uint8_t* scale = alone.scales.data() + at * DTypeSize(info.scales);
            float expected;
            std::memcpy(&expected, scale, DTypeSize(info.scales) == 4 ? 4 : 0);
            if (info.scales == DType::kF8E4M3) {
              expected = E4m3ToFloat(*scale) * alone.global_scale;
            } else if (info.scales == DType::kF8E8M0) {
              expected = E8m0ToFloat(*scale);
            }
            const uint8_t byte = alone.codes[row * row_bytes + column * info.codec.bits / 8];
            const uint8_t code = info.codec.bits == 8 ? byte
                                 : column % 2 == 0    ? byte & 15
                                                      : byte >> 4;
            ASSERT_EQ(decoded[column], info.codec.decode(code) * expected)
                << linear.name << " row " << dest << ", column " << column;
          }
        }
      }
    }
  }
}

// Refills go through the filler that loads: the same tensor makes the same weight, in place.
TEST_F(WeightsTest, RefillMakesWhatLoadingMakes) {
  const ModelConfig config =
      SmallConfig(R"({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1})");
  for (const NamedScheme& named : WeightSchemes()) {
    if (!named.scheme.has_value()) {
      continue;
    }
    SCOPED_TRACE(named.name);
    const LoadOptions options{.scheme = named.scheme};
    Model model = Load(config, options, 1);
    const Model other = Load(config, options, 2);
    const void* values = model.layers[0].qkv.weight.values.data;
    DummySource source(2);
    for (Linear* linear : model.layers[0].linears()) {
      for (const LinearPart& part : linear->parts) {
        const auto rows =
            source.Open(part.tensor + ".weight", {part.tensor_rows, part.tensor_columns});
        std::vector<uint16_t> tensor(part.tensor_rows * part.tensor_columns);
        for (int64_t row = 0; row < part.tensor_rows; ++row) {
          rows->Row(row, tensor.data() + row * part.tensor_columns);
        }
        model.Refill(part.tensor + ".weight",
                     {tensor.data(), DType::kF16, {part.tensor_rows, part.tensor_columns}},
                     threads_);
      }
    }
    EXPECT_EQ(model.layers[0].qkv.weight.values.data, values);
    for (size_t i = 0; i < model.layers[0].linears().size(); ++i) {
      const Weight& a = model.layers[0].linears()[i]->weight;
      const Weight& b = other.layers[0].linears()[i]->weight;
      std::vector<float> row_a(a.k);
      std::vector<float> row_b(a.k);
      for (int64_t row = 0; row < a.n; ++row) {
        reference::DecodeWeightRow(a, Precision::kExact, row, row_a.data());
        reference::DecodeWeightRow(b, Precision::kExact, row, row_b.data());
        ASSERT_EQ(row_a, row_b) << model.layers[0].linears()[i]->name << " row " << row;
      }
    }
  }
}

// Parts of one weight may have different types in the checkpoint.
TEST_F(WeightsTest, TypesMayDifferWithinAWeight) {
  // F16 weights, but k_proj's are F32 and v_proj's BF16.
  class MixedSource : public DummySource {
   public:
    MixedSource() : DummySource(1) {}
    std::unique_ptr<TensorRows> Open(const std::string& name,
                                     const std::vector<int64_t>& shape) override {
      auto rows = DummySource::Open(name, shape);
      const bool k = name.ends_with("k_proj.weight");
      const bool v = name.ends_with("v_proj.weight");
      if (!k && !v) {
        return rows;
      }
      return std::make_unique<Converted>(std::move(rows), k ? DType::kF32 : DType::kBF16,
                                         shape.back());
    }

   private:
    class Converted : public TensorRows {
     public:
      Converted(std::unique_ptr<TensorRows> rows, DType dtype, int64_t columns)
          : TensorRows(dtype, columns), rows_(std::move(rows)) {}
      const void* Row(int64_t index, void* scratch) const override {
        std::vector<uint16_t> row(columns_);
        const auto* halves = static_cast<const uint16_t*>(rows_->Row(index, row.data()));
        for (int64_t i = 0; i < columns_; ++i) {
          const float value = Fp16ToFloat(halves[i]);
          if (dtype_ == DType::kF32) {
            static_cast<float*>(scratch)[i] = value;
          } else {
            static_cast<uint16_t*>(scratch)[i] = FloatToBf16(value);
          }
        }
        return scratch;
      }

     private:
      std::unique_ptr<TensorRows> rows_;
    };
  };
  const ModelConfig config = SmallConfig(R"({"hidden_size": 64, "intermediate_size": 96})");
  const Model uniform = Load(config, {.scheme = kPlainWeights});
  for (const NamedScheme& named : WeightSchemes()) {
    SCOPED_TRACE(named.name);
    MixedSource source;
    const Model model = LoadModel(config, source, {.scheme = named.scheme}, threads_);
    if (named.scheme != kPlainWeights) {
      continue;
    }
    const Weight& weight = model.layers[0].qkv.weight;
    EXPECT_EQ(weight.values.dtype, DType::kF32);
    EXPECT_EQ(model.layers[0].o.weight.values.dtype, DType::kF16);
    const std::vector<float> mixed = Values(weight);
    std::vector<float> expected = Values(uniform.layers[0].qkv.weight);
    for (int64_t i = (weight.n - 2 * config.head_dim) * weight.k; i < weight.n * weight.k; ++i) {
      expected[i] = Bf16ToFloat(FloatToBf16(expected[i]));
    }
    EXPECT_EQ(mixed, expected);
  }
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
