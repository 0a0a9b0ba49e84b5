// What the decoder promises beyond its logits, which the Python tests compare with transformers:
// row-wise precisions, limits, errors that leave the cache alone.

#include "dualfp/model/decoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <numeric>
#include <set>

#include "dualfp/base/testing/count_allocations.h"
#include "dualfp/model/rope_frequencies.h"
#include "dualfp/model/test_models.h"
#include "dualfp/model/weights.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;

struct Sequence {
  std::span<const int32_t> tokens;
  int64_t position = 0;
  std::span<const int32_t> blocks;
};

class DecoderTest : public ::testing::Test {
 protected:
  DecoderTest() : model_(Load()), cache_(model_.KvCacheFor(DType::kF32, 40)) {
    blocks_.resize(40);
    std::iota(blocks_.begin(), blocks_.end(), 0);
  }

  Model Load() {
    DummySource source(5);
    return LoadModel(SmallConfig(), source, {}, threads_);
  }

  static std::vector<int32_t> Tokens(int32_t count, int32_t seed) {
    std::vector<int32_t> tokens(count);
    for (int32_t i = 0; i < count; ++i) {
      tokens[i] = (seed + i * 31 + i * i) % 80;
    }
    return tokens;
  }

  PrecisionPlan Uniform(Precision precision) { return PrecisionPlan::Uniform(3, precision); }

  std::vector<float> Run(Decoder& decoder, std::vector<Sequence> sequences,
                         std::vector<PlanRange> plans, std::vector<int32_t> rows) {
    StepBatch batch = decoder.NewBatch();
    for (const Sequence& sequence : sequences) {
      batch.AddSequence(sequence.tokens, sequence.position, sequence.blocks);
    }
    for (const PlanRange& plan : plans) {
      batch.AddPlan(plan);
    }
    for (const int32_t row : rows) {
      batch.AddLogitRow(row);
    }
    const auto count = static_cast<int64_t>(rows.size());
    std::vector<float> logits(count * 80);
    decoder.Forward({.threads = &threads_}, batch, cache_,
                    {logits.data(), DType::kF32, {count, 80}});
    return logits;
  }

  std::string Refusal(Decoder& decoder, std::vector<Sequence> sequences,
                      std::vector<PlanRange> plans, std::vector<int32_t> rows) {
    try {
      Run(decoder, std::move(sequences), std::move(plans), std::move(rows));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return error.what();
    }
    return "";
  }

  std::span<const int32_t> Blocks(int64_t begin, int64_t count) {
    return std::span<const int32_t>(blocks_).subspan(begin, count);
  }

  ThreadPool threads_{2};
  Model model_;
  KvCache cache_;
  std::vector<int32_t> blocks_;
};

TEST_F(DecoderTest, RowsOfOneStepComputeAtTheirOwnPrecision) {
  Decoder decoder(model_, {.limits = {.max_tokens = 64, .max_sequences = 3, .max_logit_rows = 3}});
  const std::vector<int32_t> a = Tokens(20, 1), b = Tokens(7, 2), c = Tokens(1, 3);
  const Sequence sa{.tokens = a, .blocks = Blocks(0, 2)};
  const Sequence sb{.tokens = b, .blocks = Blocks(2, 1)};
  const Sequence sc{.tokens = c, .blocks = Blocks(3, 1)};
  const PrecisionPlan fp16 = Uniform(Precision::kExact);
  const PrecisionPlan fp8 = Uniform(Precision::kFp8);
  PrecisionPlan mixed = fp16;
  mixed.layers[1] = Precision::kFp8;
  const auto alone = [&](const Sequence& sequence, const PrecisionPlan& plan) {
    const auto rows = static_cast<int32_t>(sequence.tokens.size());
    return Run(decoder, {sequence}, {{0, rows, &plan}}, {rows - 1});
  };
  std::vector<float> expected = alone(sa, fp8);
  for (const auto& part : {alone(sb, fp16), alone(sc, mixed)}) {
    expected.insert(expected.end(), part.begin(), part.end());
  }
  EXPECT_EQ(
      Run(decoder, {sa, sb, sc}, {{0, 20, &fp8}, {20, 27, &fp16}, {27, 28, &mixed}}, {19, 26, 27}),
      expected);
  // All three precisions differ, and so does a layer in the middle.
  EXPECT_NE(alone(sc, fp16), alone(sc, fp8));
  EXPECT_NE(alone(sc, fp16), alone(sc, mixed));
  EXPECT_NE(alone(sc, fp8), alone(sc, mixed));
}

TEST_F(DecoderTest, AStepAllocatesNothing) {
  Decoder decoder(model_, {.limits = {.max_tokens = 16, .max_sequences = 2, .max_logit_rows = 2}});
  const std::vector<int32_t> tokens = Tokens(9, 1);
  std::vector<float> logits(2 * 80);
  const PrecisionPlan plans[] = {Uniform(Precision::kExact), Uniform(Precision::kFp8)};
  StepBatch batch = decoder.NewBatch();
  const auto step = [&] {
    batch.Clear();
    batch.AddSequence(std::span(tokens).first(8), 0, Blocks(0, 1));
    batch.AddSequence(std::span(tokens).last(1), 0, Blocks(1, 1));
    batch.AddPlan({0, 8, &plans[0]});
    batch.AddPlan({8, 9, &plans[1]});
    batch.AddLogitRow(7);
    batch.AddLogitRow(8);
    decoder.Forward({.threads = &threads_}, batch, cache_, {logits.data(), DType::kF32, {2, 80}});
  };
  step();  // kernels remember their choice the first time
  const int64_t before = CountAllocations();
  step();
  EXPECT_EQ(CountAllocations() - before, 0);
}

// Whatever a step holds, its ops get the same addresses, so that a captured step stays valid.
TEST_F(DecoderTest, EveryStepUsesTheSameAddresses) {
  std::map<std::string, std::set<const void*>> inputs;
  DecoderOptions options{.limits = {.max_tokens = 64, .max_sequences = 4, .max_logit_rows = 4}};
  options.observe_input = [&](const Linear& linear, const ConstTensorView& x) {
    inputs[linear.name].insert(x.data);
  };
  Decoder decoder(model_, options);
  StepBatch batch = decoder.NewBatch();
  const PrecisionPlan plan = Uniform(Precision::kExact);
  std::set<std::vector<const void*>> arrays;
  std::vector<float> logits(4 * 80);
  const auto run = [&](const std::vector<Sequence>& sequences) {
    batch.Clear();
    for (const Sequence& sequence : sequences) {
      batch.AddSequence(sequence.tokens, sequence.position, sequence.blocks);
      batch.AddLogitRow(batch.rows() - 1);
    }
    batch.SetPlan(&plan);
    decoder.Forward({.threads = &threads_}, batch, cache_,
                    {logits.data(), DType::kF32, {batch.num_logit_rows(), 80}});
    const BatchTensors in = batch.tensors();
    const ActivationTensors out = decoder.activations().First(batch.rows(), batch.num_logit_rows());
    arrays.insert({in.token_ids.data, in.positions.data, in.slots.data, in.rope_rows.data,
                   in.query_start.data, in.context_length.data, in.block_table.data,
                   in.logit_rows.data, in.inv_freq.data, out.cos_sin.data, out.hidden.data,
                   out.normed.data, out.qkv.data, out.attention.data, out.mlp.data,
                   out.last_hidden.data, out.workspace.data});
    EXPECT_EQ(in.block_table.shape[0], batch.sequences());
    EXPECT_EQ(out.hidden.shape[0], batch.rows());
  };
  const std::vector<int32_t> long_prompt = Tokens(60, 1), one = Tokens(1, 2), few = Tokens(5, 3);
  run({{long_prompt, 0, Blocks(0, 4)}});
  run({{one, 60, Blocks(0, 4)}});
  run({{one, 61, Blocks(0, 4)}, {few, 0, Blocks(4, 1)}});
  run({{one, 150, Blocks(5, 10)},
       {one, 5, Blocks(4, 1)},
       {few, 0, Blocks(15, 1)},
       {one, 0, Blocks(16, 1)}});
  EXPECT_EQ(arrays.size(), 1u);
  EXPECT_EQ(inputs.size(), 13u);
  for (const auto& [name, addresses] : inputs) {
    EXPECT_EQ(addresses.size(), 1u) << name;
  }
}

// A device's mirror of a batch is one copy of its first bytes.
TEST_F(DecoderTest, TheUsedBytesOfABatchHoldAllOfIt) {
  Decoder decoder(model_, {.limits = {.max_tokens = 64, .max_sequences = 3, .max_logit_rows = 4}});
  BatchLimits limits = decoder.NewBatch().limits();
  limits.max_samples = 5;
  limits.max_scores = 7;
  StepBatch batch(limits, &model_.config.rope);
  const std::vector<int32_t> tokens = Tokens(20, 1);
  batch.AddSequence(tokens, 30, Blocks(3, 4));
  batch.AddSample({.token = 4, .num_scores = 3});
  batch.AddSample({.num_scores = 2});
  batch.AddSequence(std::span(tokens).first(3), 0, Blocks(9, 1));
  batch.AddSample({.logit_row = 1});
  batch.SetTokenSource(22, 4);
  batch.AddLogitRow(19);
  batch.AddLogitRow(22);
  std::vector<char> mirror(batch.used_bytes());
  std::memcpy(mirror.data(), batch.data(), mirror.size());
  const BatchTensors host = batch.tensors();
  const BatchTensors copy = batch.TensorsAt(mirror.data());
  const std::pair<ConstTensorView, ConstTensorView> pairs[] = {
      {host.token_ids, copy.token_ids},           {host.token_sources, copy.token_sources},
      {host.positions, copy.positions},           {host.slots, copy.slots},
      {host.rope_rows, copy.rope_rows},           {host.query_start, copy.query_start},
      {host.context_length, copy.context_length}, {host.block_table, copy.block_table},
      {host.logit_rows, copy.logit_rows},         {host.inv_freq, copy.inv_freq}};
  for (const auto& [a, b] : pairs) {
    ASSERT_EQ(a.shape, b.shape);
    EXPECT_LE(static_cast<const char*>(b.data) + b.num_bytes(), mirror.data() + mirror.size());
    EXPECT_EQ(std::memcmp(a.data, b.data, a.num_bytes()), 0);
  }
  EXPECT_EQ(batch.slots()[0], 4 * 16 + 14) << "position 30 lies in the second block";
  EXPECT_EQ(batch.positions()[20], 0);
  EXPECT_EQ(batch.context_length()[0], 50);
  EXPECT_EQ(batch.blocks(0)[3], 6);
  EXPECT_EQ(batch.token_sources()[22], 4);
  EXPECT_EQ(batch.token_sources()[21], -1);

  // Samples are inputs too; what they yield lies in one range behind the inputs.
  const auto* begin = static_cast<const char*>(batch.data());
  const auto offset = [&](const auto& list) {
    return reinterpret_cast<const char*>(list.data()) - begin;
  };
  const int64_t results_end = batch.result_offset() + batch.result_bytes();
  EXPECT_LE(offset(batch.samples()) + static_cast<int64_t>(batch.samples().size_bytes()),
            batch.used_bytes());
  EXPECT_EQ(batch.sample_start()[1], 2);
  EXPECT_EQ(batch.sample_start()[2], 3);
  EXPECT_EQ(batch.samples()[1].score_begin, 3);
  EXPECT_EQ(batch.scores().size(), 5u);
  EXPECT_GE(batch.result_offset(), batch.used_bytes());
  EXPECT_EQ(offset(batch.tokens()), batch.result_offset());
  EXPECT_LT(offset(batch.yielded()), results_end);
  EXPECT_EQ(offset(batch.scores()) + static_cast<int64_t>(batch.scores().size_bytes()),
            results_end);
}

TEST_F(DecoderTest, BatchesKeepTheirLimits) {
  StepBatch batch({.max_rows = 8,
                   .max_sequences = 2,
                   .max_logit_rows = 1,
                   .max_context = 32,
                   .block_size = 16,
                   .max_samples = 2,
                   .max_scores = 3},
                  nullptr);
  const auto refused = [](const auto& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.code() == ErrorCode::kInvalidArgument;
    }
    return false;
  };
  batch.AddSequence(2, 4, Blocks(0, 1));
  EXPECT_TRUE(refused([&] { batch.AddSequence(0, 5, Blocks(0, 1)); })) << "rows";
  EXPECT_TRUE(refused([&] { batch.AddSequence(31, 2, Blocks(0, 3)); })) << "context";
  EXPECT_TRUE(refused([&] { batch.AddSequence(15, 2, Blocks(0, 1)); })) << "blocks";
  EXPECT_TRUE(refused([&] { batch.AddSequence(0, 0, Blocks(0, 1)); })) << "nothing";
  EXPECT_TRUE(refused([&] { batch.AddLogitRow(4); })) << "a row that is not there";
  batch.AddLogitRow(3);
  EXPECT_TRUE(refused([&] { batch.AddLogitRow(2); })) << "logit rows";
  batch.AddSample({.num_scores = 2});
  EXPECT_TRUE(refused([&] { batch.AddSample({.num_scores = 2}); })) << "scores";
  batch.AddSample({});
  EXPECT_TRUE(refused([&] { batch.AddSample({}); })) << "samples";
  batch.SetTokenSource(2, 1);
  EXPECT_TRUE(refused([&] { batch.SetTokenSource(4, 0); }));
  const int32_t previous[] = {9, kNoToken};
  EXPECT_TRUE(refused([&] { batch.ResolveTokens(std::span(previous).first(1)); }));
  batch.ResolveTokens(previous);
  EXPECT_GE(batch.token_ids()[2], 0) << "what follows no token is some token";
  batch.AddSequence(0, 4, Blocks(1, 1));
  EXPECT_TRUE(refused([&] { batch.AddSequence(0, 1, Blocks(1, 1)); })) << "sequences";
  batch.Clear();
  EXPECT_EQ(batch.rows() + batch.sequences() + batch.num_samples() + batch.num_logit_rows(), 0);
}

TEST_F(DecoderTest, CostCountsWhatEachPrecisionReads) {
  const Decoder decoder(model_, {.limits = {.max_tokens = 1}});
  const int64_t head = 80 * 48 * 2;
  const int64_t layers = 3 * 48 * (2 * 48 + 48 + 3 * 72);
  const PlanCost fp16 = decoder.CostOf(Uniform(Precision::kExact));
  EXPECT_EQ(fp16.weight_bytes, head + 2 * layers);
  EXPECT_EQ(fp16.linears_at_fp16, 13);
  const PlanCost fp8 = decoder.CostOf(Uniform(Precision::kFp8));
  EXPECT_EQ(fp8.weight_bytes, head + layers);
  EXPECT_EQ(fp8.linears_at_fp8, 12);
  EXPECT_EQ(fp8.fallbacks, 0);
}

TEST_F(DecoderTest, StepsThatCannotRunAreErrors) {
  Decoder decoder(
      model_,
      {.limits = {.max_tokens = 32, .max_sequences = 2, .max_logit_rows = 1, .max_context = 48}});
  const PrecisionPlan plan = Uniform(Precision::kExact);
  const std::vector<int32_t> tokens = Tokens(10, 1);
  const std::vector<int32_t> many = Tokens(33, 1);
  const std::vector<int32_t> outside = {1, 80};
  const std::vector<int32_t> bad_block = {40};
  const Sequence good{.tokens = tokens, .blocks = Blocks(0, 3)};
  const PlanRange all{0, 10, &plan};
  const auto refusal = [&](const Sequence& sequence, const PlanRange& range, int32_t row) {
    return Refusal(decoder, {sequence}, {range}, {row});
  };
  EXPECT_EQ(refusal(good, all, 9), "");
  EXPECT_THAT(refusal(good, all, 10), HasSubstr("row 10"));
  EXPECT_THAT(refusal(good, {0, 9, &plan}, 0), HasSubstr("cover 9 of 10"));
  EXPECT_THAT(refusal(good, {1, 10, &plan}, 0), HasSubstr("ascending"));
  const PrecisionPlan two_layers = PrecisionPlan::Uniform(2, Precision::kFp8);
  EXPECT_THAT(refusal(good, {0, 10, &two_layers}, 0), HasSubstr("2 layers, expected 3"));
  EXPECT_THAT(refusal({.tokens = many, .blocks = Blocks(0, 3)}, {0, 33, &plan}, 0),
              HasSubstr("33 tokens"));
  EXPECT_THAT(refusal({.tokens = tokens, .position = 39, .blocks = Blocks(0, 4)}, all, 0),
              HasSubstr("context length 48"));
  EXPECT_THAT(refusal({.tokens = tokens, .position = 10, .blocks = Blocks(0, 1)}, all, 0),
              HasSubstr("1 cache blocks"));
  EXPECT_THAT(refusal({.tokens = tokens, .blocks = bad_block}, all, 0), HasSubstr("block 40"));
  EXPECT_THAT(refusal({.tokens = outside, .blocks = Blocks(0, 1)}, {0, 2, &plan}, 0),
              HasSubstr("token 80"));
  EXPECT_THAT(refusal({.blocks = Blocks(0, 1)}, all, 0), HasSubstr("0 tokens"));
  EXPECT_THAT(Refusal(decoder, {}, {}, {}), HasSubstr("0 sequences"));
  EXPECT_THAT(Refusal(decoder, {good, good, good}, {all}, {}), HasSubstr("3 sequences"));
}

TEST_F(DecoderTest, LimitsAreChecked) {
  EXPECT_THROW(Decoder(model_, {.limits = {.max_context = 201}}), Error);
  EXPECT_THROW(Decoder(model_, {.limits = {.max_tokens = 0}}), Error);
  EXPECT_NO_THROW(Decoder(model_, {.limits = {.max_context = 200}}));
}

TEST(KvCacheTest, SizesNamesAndScales) {
  KvCacheConfig config{.dtype = DType::kF8E4M3,
                       .num_layers = 2,
                       .num_kv_heads = 3,
                       .head_dim = 8,
                       .num_blocks = 5,
                       .scales = {{{1.5f}, {2.0f}}, {{0.5f, 0.75f, 0.25f}, {}}}};
  EXPECT_EQ(config.BytesPerBlock(), 2 * 2 * 3 * 8 * 16);
  const KvCache cache(config);
  EXPECT_EQ(cache.num_bytes(), 5 * config.BytesPerBlock());
  EXPECT_EQ(cache.layer(0).value_scale, 2.0f);
  EXPECT_FALSE(cache.layer(0).value_head_scales);
  EXPECT_EQ(KvHeadScale(1, cache.layer(1).key_head_scales, 1), 0.75f);
  EXPECT_EQ(cache.layer(1).value_scale, 1.0f);
  EXPECT_NE(cache.layer(0).key.data, cache.layer(0).value.data);
  config.dtype = DType::kF16;
  EXPECT_EQ(KvCache(config).layer(0).key_scale, 1.0f);
  config.dtype = DType::kF8E4M3;
  config.scales[1].value = {1.0f, 2.0f};
  EXPECT_THROW(KvCache{config}, Error);
  config.dtype = DType::kBF16;
  EXPECT_THROW(KvCache{config}, Error);
  EXPECT_EQ(ParseKvCacheDType("fp8"), DType::kF8E4M3);
  EXPECT_EQ(ParseKvCacheDType("int8"), std::nullopt);
  EXPECT_EQ(KvBlocksFor(0), 0);
  EXPECT_EQ(KvBlocksFor(16), 1);
  EXPECT_EQ(KvBlocksFor(17), 2);
}

TEST(RopeTest, ContextFollowsTheScaling) {
  const auto context = [](const std::string& rope) {
    return MaxContextLength(SmallConfig("{\"rope_scaling\": " + rope + "}"));
  };
  EXPECT_EQ(context("null"), 200);
  EXPECT_EQ(context(R"({"rope_type": "linear", "factor": 4.0})"), 800);
  EXPECT_EQ(context(R"({"rope_type": "dynamic", "factor": 2.0})"), 400);
  EXPECT_EQ(context(R"({"rope_type": "yarn", "factor": 4.0,
                        "original_max_position_embeddings": 100})"),
            400);
  EXPECT_EQ(context(R"({"rope_type": "yarn", "factor": 1.5,
                        "original_max_position_embeddings": 100})"),
            200);
}

}  // namespace
}  // namespace dualfp
