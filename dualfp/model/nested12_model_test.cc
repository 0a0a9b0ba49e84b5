// Models of BF16 weights: held in 12 bits, exact, with lm_head; from checkpoints of either kind.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <random>

#include "dualfp/base/error.h"
#include "dualfp/io/safetensors_writer.h"
#include "dualfp/kernels/embedding.h"
#include "dualfp/kernels/nest12.h"
#include "dualfp/model/decoder.h"
#include "dualfp/model/test_models.h"
#include "dualfp/model/weights.h"
#include "dualfp/numeric/bf16.h"

namespace dualfp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct Tensor {
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;

  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(bytes.data());
  }
};

using Tensors = std::map<std::string, Tensor>;

Tensor MakeTensor(DType dtype, const std::vector<int64_t>& shape, const void* data) {
  int64_t bytes = DTypeSize(dtype);
  for (const int64_t size : shape) {
    bytes *= size;
  }
  const auto* begin = static_cast<const uint8_t*>(data);
  return {dtype, shape, std::vector<uint8_t>(begin, begin + bytes)};
}

class Nested12ModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::temp_directory_path() /
                 ("nested12_model_test." + std::to_string(::getpid()));
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  // Every tensor of the model in BF16, a few weights tiny.
  Tensors Bf16Tensors(const ModelConfig& config) {
    Tensors tensors;
    std::mt19937 random(5);
    std::normal_distribution<float> normal(0.0f, 0.05f);
    const auto add = [&](const std::string& name, const std::vector<int64_t>& shape) {
      int64_t size = 1;
      for (const int64_t n : shape) {
        size *= n;
      }
      std::vector<uint16_t> codes(size);
      for (uint16_t& code : codes) {
        code = FloatToBf16(shape.size() == 1     ? 1.0f
                           : random() % 300 == 0 ? 1.7e-7f
                                                 : normal(random));
      }
      tensors[name] = MakeTensor(DType::kBF16, shape, codes.data());
    };
    const int64_t hidden = config.hidden_size;
    const int64_t q = config.num_attention_heads * config.head_dim;
    const int64_t kv = config.num_key_value_heads * config.head_dim;
    add("model.embed_tokens.weight", {config.vocab_size, hidden});
    if (!config.tie_word_embeddings) {
      add("lm_head.weight", {config.vocab_size, hidden});
    }
    add("model.norm.weight", {hidden});
    for (int layer = 0; layer < config.num_hidden_layers; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      add(prefix + "input_layernorm.weight", {hidden});
      add(prefix + "post_attention_layernorm.weight", {hidden});
      for (const auto& [name, rows] : {std::pair{"q", q}, {"k", kv}, {"v", kv}}) {
        add(prefix + "self_attn." + name + "_proj.weight", {rows, hidden});
        add(prefix + "self_attn." + name + "_proj.bias", {rows});
      }
      add(prefix + "self_attn.o_proj.weight", {hidden, q});
      add(prefix + "mlp.gate_proj.weight", {config.intermediate_size, hidden});
      add(prefix + "mlp.up_proj.weight", {config.intermediate_size, hidden});
      add(prefix + "mlp.down_proj.weight", {hidden, config.intermediate_size});
    }
    return tensors;
  }

  // The linear layers' weights and the tables as Nested12 tensors.
  Tensors Nested12Tensors(const Tensors& source) {
    Tensors tensors;
    for (const auto& [name, tensor] : source) {
      if (tensor.shape.size() == 1) {
        tensors[name] = tensor;
        continue;
      }
      const std::string stem = name.substr(0, name.size() - std::string("weight").size());
      const int64_t n = tensor.shape[0];
      const int64_t k = tensor.shape[1];
      Tensor& upper = tensors[stem + "weight_upper"];
      upper = {DType::kF8E4M3, {n, k}, std::vector<uint8_t>(n * k)};
      Tensor& nibble = tensors[stem + "weight_nibble"];
      nibble = {DType::kU8, {n, NibbleBytes(k)}, std::vector<uint8_t>(n * NibbleBytes(k))};
      Tensor& shift = tensors[stem + "weight_shift"];
      shift = {DType::kI8, {n}, std::vector<uint8_t>(n)};
      OutlierBuffers remainders;
      Nest12(threads_, name, {tensor.bytes.data(), DType::kBF16, {n, k}},
             {.upper = {upper.bytes.data(), DType::kF8E4M3, {n, k}},
              .nibble = {nibble.bytes.data(), DType::kU8, {n, NibbleBytes(k)}},
              .shift = {shift.bytes.data(), DType::kI8, {n}}},
             n * k, &remainders);
      const auto count = static_cast<int64_t>(remainders.index.size());
      tensors[stem + "remainder_index"] = MakeTensor(DType::kI64, {count}, remainders.index.data());
      tensors[stem + "remainder_value"] = MakeTensor(DType::kF32, {count}, remainders.value.data());
    }
    return tensors;
  }

  Model LoadTensors(const ModelConfig& config, const Tensors& tensors,
                    const LoadOptions& options = {}) {
    std::vector<TensorSpec> specs;
    for (const auto& [name, tensor] : tensors) {
      specs.push_back({name, tensor.dtype, tensor.shape});
    }
    CheckpointWriter writer(directory_, specs);
    for (const auto& [name, tensor] : tensors) {
      writer.Append(name, tensor.bytes.data(), tensor.bytes.size());
    }
    writer.Commit();
    CheckpointSource source(Checkpoint::Open(directory_),
                            QuantizationConfig::Parse(config.quantization_config, "config.json"));
    return LoadModel(config, source, options, threads_);
  }

  // A weight's rows as floats, remainders included.
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

  void ExpectSameWeights(const Model& a, const Model& b) {
    EXPECT_EQ(Values(a.embedding.weight), Values(b.embedding.weight));
    EXPECT_EQ(Values(a.lm_head.weight), Values(b.lm_head.weight));
    for (size_t layer = 0; layer < a.layers.size(); ++layer) {
      for (size_t i = 0; i < a.layers[layer].linears().size(); ++i) {
        EXPECT_EQ(Values(a.layers[layer].linears()[i]->weight),
                  Values(b.layers[layer].linears()[i]->weight));
      }
    }
  }

  ThreadPool threads_{2};
  std::filesystem::path directory_;
};

TEST_F(Nested12ModelTest, Bf16WeightsTake12BitsAndLoseNothing) {
  for (const bool tied : {false, true}) {
    const ModelConfig config =
        SmallConfig(tied ? R"({"tie_word_embeddings": true})" : R"({"intermediate_size": 71})");
    const Tensors tensors = Bf16Tensors(config);
    const Model plain = LoadTensors(config, tensors, {.scheme = kPlainWeights});
    const Model model = LoadTensors(config, tensors);
    ExpectSameWeights(model, plain);
    EXPECT_EQ(model.report.NestedLayerLinears(), model.report.LayerLinears());
    int64_t remainders = 0;
    for (const LinearReport& linear : model.report.linears) {
      const bool table = linear.name == "model.embed_tokens" && !tied;
      EXPECT_EQ(linear.scheme, table ? kPlainWeights : kNested12Weights) << linear.name;
      EXPECT_EQ(linear.rounded, 0);
      remainders += linear.outliers;
    }
    EXPECT_GT(remainders, 20);
    EXPECT_EQ(model.lm_head.weight.format, QuantFormat::kNested12);
  }
}

TEST_F(Nested12ModelTest, LmHeadComputesAtFp8OnlyWhereAskedTo) {
  const ModelConfig config = SmallConfig();
  const Tensors tensors = Bf16Tensors(config);
  const PrecisionPlan fp8 = PrecisionPlan::Uniform(config.num_hidden_layers, Precision::kFp8);
  for (const bool asked : {false, true}) {
    const Model model = LoadTensors(config, tensors, {.nest_lm_head = asked});
    const Decoder decoder(model, {.limits = {.max_tokens = 4, .max_logit_rows = 1}});
    const PlanCost cost = decoder.CostOf(fp8);
    EXPECT_EQ(cost.linears_at_fp16, asked ? 0 : 1);
    EXPECT_EQ(cost.linears_at_fp8, 4 * config.num_hidden_layers + (asked ? 1 : 0));
    EXPECT_EQ(cost.fallbacks, 0);
    EXPECT_EQ(model.HeadComputesAt(Precision::kFp8), asked);
    EXPECT_TRUE(model.HeadComputesAt(Precision::kExact));
  }
}

// Types decide by layer; a scheme that is asked for goes first.
TEST_F(Nested12ModelTest, OtherTypesAndSchemesKeepTheirOwn) {
  const ModelConfig config = SmallConfig();
  Tensors tensors = Bf16Tensors(config);
  for (const char* name : {"model.layers.0.mlp.up_proj.weight", "lm_head.weight"}) {
    Tensor& tensor = tensors[name];
    std::fill_n(tensor.as<uint16_t>(), tensor.bytes.size() / 2, uint16_t{0x2e66});
    tensor.dtype = DType::kF16;
  }
  const Model model = LoadTensors(config, tensors);
  EXPECT_EQ(model.layers[0].gate_up.weight.format, QuantFormat::kNested);
  EXPECT_EQ(model.layers[0].qkv.weight.format, QuantFormat::kNested12);
  EXPECT_EQ(model.layers[1].gate_up.weight.format, QuantFormat::kNested12);
  EXPECT_EQ(model.lm_head.weight.format, QuantFormat::kPlain);
  const Model nested = LoadTensors(config, tensors, {.scheme = kNestedWeights});
  EXPECT_EQ(nested.layers[1].gate_up.weight.format, QuantFormat::kNested);
  EXPECT_EQ(nested.lm_head.weight.format, QuantFormat::kPlain);
  const Model nested12 = LoadTensors(config, tensors, {.scheme = kNested12Weights});
  EXPECT_EQ(nested12.layers[0].gate_up.weight.format, QuantFormat::kNested12);
  EXPECT_EQ(nested12.lm_head.weight.format, QuantFormat::kPlain);
}

TEST_F(Nested12ModelTest, TooManyRemaindersStayPlainAndAreReported) {
  const ModelConfig config = SmallConfig();
  Tensors tensors = Bf16Tensors(config);
  auto* codes = tensors["model.layers.1.self_attn.o_proj.weight"].as<uint16_t>();
  for (int64_t i = 0; i < 48 * 48; i += 50) {
    codes[i] = FloatToBf16(1.7e-7f);
  }
  const Model model = LoadTensors(config, tensors);
  const Weight& weight = model.layers[1].o.weight;
  EXPECT_EQ(weight.format, QuantFormat::kPlain);
  EXPECT_EQ(weight.values.dtype, DType::kBF16);
  EXPECT_EQ(model.report.NestedLayerLinears(), model.report.LayerLinears() - 1);
  for (const LinearReport& linear : model.report.linears) {
    if (linear.name == "model.layers.1.self_attn.o_proj") {
      EXPECT_THAT(linear.exception,
                  AllOf(HasSubstr("of 2304 weights leave a remainder"), HasSubstr("0.01")));
    } else {
      EXPECT_EQ(linear.exception, "");
    }
  }
}

TEST_F(Nested12ModelTest, RefillWritesInPlace) {
  const ModelConfig config = SmallConfig();
  Model model = LoadTensors(config, Bf16Tensors(config));
  Linear& gate_up = model.layers[1].gate_up;
  const Weight before = gate_up.weight;
  const std::vector<float> old = Values(before);
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<uint16_t> codes(72 * 48);
  for (uint16_t& code : codes) {
    code = FloatToBf16(random() % 100 == 0 ? -3e-6f : normal(random));
  }
  for (int round = 0; round < 2; ++round) {
    model.Refill("model.layers.1.mlp.up_proj.weight", {codes.data(), DType::kBF16, {72, 48}},
                 threads_);
    EXPECT_EQ(gate_up.weight.values.data, before.values.data);
    EXPECT_EQ(gate_up.weight.lower.data, before.lower.data);
    EXPECT_EQ(gate_up.weight.scales.data, before.scales.data);
    const std::vector<float> after = Values(gate_up.weight);
    for (int64_t row = 0; row < 72; ++row) {
      for (int64_t i = 0; i < 48; ++i) {
        ASSERT_EQ(after[(2 * row + 1) * 48 + i], Bf16ToFloat(codes[row * 48 + i]));
        ASSERT_EQ(after[2 * row * 48 + i], old[2 * row * 48 + i]);
      }
    }
  }
  codes[50] = 0x7f80;
  EXPECT_THAT(
      [&] {
        model.Refill("model.layers.1.mlp.up_proj.weight", {codes.data(), DType::kBF16, {72, 48}},
                     threads_);
      },
      ThrowsMessage<Error>(HasSubstr("row 1, column 2")));
}

// A checkpoint of planes is the BF16 one, whatever it is loaded as.
TEST_F(Nested12ModelTest, LoadsItsOwnCheckpoints) {
  for (const bool tied : {false, true}) {
    ModelConfig config = SmallConfig(tied ? R"({"tie_word_embeddings": true})" : "{}");
    const Tensors tensors = Bf16Tensors(config);
    const Model plain = LoadTensors(config, tensors, {.scheme = kPlainWeights});
    config.quantization_config =
        ParseJson(R"({"quant_method": "dualfp", "format": "nested12", "version": 1})", "config");
    const Tensors planes = Nested12Tensors(tensors);
    const Model model = LoadTensors(config, planes);
    ExpectSameWeights(model, plain);
    EXPECT_TRUE(model.report.unused.empty());
    EXPECT_EQ(model.report.NestedLayerLinears(), model.report.LayerLinears());
    const Model back = LoadTensors(config, planes, {.scheme = kPlainWeights});
    EXPECT_EQ(back.layers[0].down.weight.values.dtype, DType::kBF16);
    ExpectSameWeights(back, plain);
    if (!tied) {
      const Model part = LoadTensors(config, planes, {.shard = {1, 2}});
      const std::vector<float> mine = Values(part.layers[2].down.weight);
      const std::vector<float> all = Values(plain.layers[2].down.weight);
      for (int64_t row = 0; row < 48; ++row) {
        for (int64_t i = 0; i < 36; ++i) {
          ASSERT_EQ(mine[row * 36 + i], all[row * 72 + 36 + i]);
        }
      }
    }
  }
}

TEST_F(Nested12ModelTest, RefusesBrokenCheckpoints) {
  ModelConfig config = SmallConfig();
  config.quantization_config =
      ParseJson(R"({"quant_method": "dualfp", "format": "nested12"})", "config");
  const Tensors good = Nested12Tensors(Bf16Tensors(config));
  EXPECT_NO_THROW(LoadTensors(config, good));
  const std::string stem = "model.layers.1.mlp.gate_proj.";
  const auto expect = [&](const std::function<void(Tensors&)>& change, const std::string& message) {
    Tensors bad = good;
    change(bad);
    EXPECT_THAT([&] { LoadTensors(config, bad); }, ThrowsMessage<Error>(HasSubstr(message)));
  };
  for (const char* plane :
       {"weight_nibble", "weight_shift", "remainder_index", "remainder_value"}) {
    expect([&](Tensors& tensors) { tensors.erase(stem + plane); },
           std::string(plane) + " is missing");
  }
  expect([&](Tensors& tensors) { tensors.erase(stem + "weight_upper"); },
         stem + "weight is missing");
  expect(
      [&](Tensors& tensors) {
        tensors[stem + "weight_upper"].shape = {48, 72};
      },
      "expected F8_E4M3[72, 48]");
  expect([&](Tensors& tensors) { tensors[stem + "weight_shift"].dtype = DType::kU8; },
         "expected I8[72]");
  expect([&](Tensors& tensors) { tensors[stem + "weight_upper"].bytes[100] = 0x7f; },
         stem + "weight: element 100 has upper byte 127");
  expect([&](Tensors& tensors) { tensors[stem + "remainder_index"].as<int64_t>()[0] = 72 * 48; },
         "must ascend below");
  expect([&](Tensors& tensors) { tensors[stem + "remainder_value"].as<float>()[0] = NAN; },
         "is not what rounding leaves");
  for (const char* quantization :
       {R"({"quant_method": "dualfp", "format": "nested12", "version": 2})",
        R"({"quant_method": "dualfp", "format": "nested"})", R"({"quant_method": "awq"})"}) {
    config.quantization_config = ParseJson(quantization, "config");
    EXPECT_THAT([&] { LoadTensors(config, good); },
                ThrowsMessage<Error>(HasSubstr("quantization_config")));
  }
}

}  // namespace
}  // namespace dualfp
