#include "dualfp/io/quantization_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "dualfp/base/error.h"

namespace dualfp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr WeightScheme kMxfp8{QuantFormat::kMxfp8, ScaleGranularity::kGroup};
constexpr WeightScheme kNvfp4{QuantFormat::kNvfp4, ScaleGranularity::kGroup};
constexpr const char* kUp = "model.layers.0.mlp.up_proj";
constexpr const char* kQuery = "model.layers.1.self_attn.q_proj";

QuantizationConfig Parse(const std::string& text) {
  return QuantizationConfig::Parse(ParseJson(text, "config.json"), "config.json");
}

void ExpectInvalid(const std::string& text, ErrorCode code, const char* field) {
  try {
    Parse(text);
    ADD_FAILURE() << "accepted " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), AllOf(HasSubstr("config.json"), HasSubstr(field)));
  }
}

// One group of compressed-tensors.
std::string Group(const std::string& weights, const std::string& activations,
                  const std::string& targets = R"(["Linear"])") {
  return R"({"targets": )" + targets + R"(, "weights": )" + weights + R"(, "input_activations": )" +
         activations + "}";
}

std::string CompressedTensors(const std::string& groups, const std::string& more = "") {
  return R"({"quant_method": "compressed-tensors", "config_groups": {)" + groups + "}" + more + "}";
}

constexpr const char* kChannel = R"({"num_bits": 8, "type": "float", "strategy": "channel"})";
constexpr const char* kToken =
    R"({"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true})";

TEST(QuantizationConfigTest, NoneQuantizesNothing) {
  const QuantizationConfig config = Parse("null");
  EXPECT_FALSE(config.quantized());
  EXPECT_EQ(config.Of(kUp), LinearQuantization{});
  EXPECT_FALSE(config.fp8_kv_cache());
}

TEST(QuantizationConfigTest, Fp8) {
  const auto of = [](const std::string& fields) {
    return Parse(R"({"quant_method": "fp8")" + fields + "}").Of(kUp);
  };
  EXPECT_EQ(of(""), (LinearQuantization{kFp8PerTensor, ActivationQuant::kDynamicPerTensor}));
  EXPECT_EQ(of(R"(, "activation_scheme": "static")"),
            (LinearQuantization{kFp8PerTensor, ActivationQuant::kStaticPerTensor}));
  EXPECT_EQ(of(R"(, "activation_scheme": "dynamic", "weight_block_size": null)"),
            (LinearQuantization{kFp8PerTensor, ActivationQuant::kDynamicPerTensor}));
  EXPECT_EQ(of(R"(, "weight_block_size": [128, 128], "scale_fmt": "ue8m0")"),
            (LinearQuantization{kFp8PerBlock, ActivationQuant::kDynamicPerGroup}));
  EXPECT_EQ(of(R"(, "weight_block_size": [1, 32], "scale_fmt": "ue8m0")"),
            (LinearQuantization{kMxfp8, ActivationQuant::kDynamicMx}));

  const QuantizationConfig config = Parse(R"({"quant_method": "fp8",
      "activation_scheme": "static", "kv_cache_scheme": "static",
      "ignored_layers": ["lm_head", "model.layers.1"], "modules_to_not_convert": ["visual"]})");
  EXPECT_TRUE(config.fp8_kv_cache());
  EXPECT_EQ(config.Of("lm_head").scheme, kPlainWeights);
  EXPECT_EQ(config.Of(kQuery).scheme, kPlainWeights);
  EXPECT_EQ(config.Of("visual.proj").scheme, kPlainWeights);
  EXPECT_EQ(config.Of("model.layers.10.self_attn.q_proj").scheme, kFp8PerTensor);
}

TEST(QuantizationConfigTest, CompressedTensorsStrategies) {
  const auto of = [](const std::string& weights, const std::string& activations) {
    return Parse(CompressedTensors(R"("group_0": )" + Group(weights, activations))).Of(kUp);
  };
  EXPECT_EQ(of(kChannel, kToken),
            (LinearQuantization{kFp8PerChannel, ActivationQuant::kDynamicPerToken}));
  EXPECT_EQ(of(kChannel, "null"), (LinearQuantization{kFp8PerChannel, ActivationQuant::kNone}));
  EXPECT_EQ(of(R"({"num_bits": 8, "type": "float", "strategy": "tensor"})",
               R"({"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": false})"),
            (LinearQuantization{kFp8PerTensor, ActivationQuant::kStaticPerTensor}));
  // Null fields may be missing: the strategy follows from the group size.
  EXPECT_EQ(of(R"({"num_bits": 8, "type": "float"})", R"({"type": "float", "dynamic": true})"),
            (LinearQuantization{kFp8PerTensor, ActivationQuant::kDynamicPerTensor}));
  for (const char* block : {"[128, 128]", "\"128x128\""}) {
    EXPECT_EQ(of(std::string(R"({"num_bits": 8, "type": "float", "strategy": "block",
                                 "block_structure": )") +
                     block + "}",
                 R"({"type": "float", "strategy": "group", "group_size": 128, "dynamic": true})"),
              (LinearQuantization{kFp8PerBlock, ActivationQuant::kDynamicPerGroup}));
  }
  EXPECT_EQ(of(R"({"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32})",
               R"({"type": "float", "strategy": "group", "group_size": 32, "dynamic": true})"),
            (LinearQuantization{kMxfp8, ActivationQuant::kDynamicMx}));
}

TEST(QuantizationConfigTest, CompressedTensorsTargets) {
  const std::string nvfp4 =
      R"({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16})";
  const std::string local = R"({"num_bits": 4, "type": "float", "strategy": "tensor_group",
                                "group_size": 16, "dynamic": "local"})";
  const std::string tensor = R"({"num_bits": 8, "type": "float", "strategy": "tensor"})";
  const QuantizationConfig config = Parse(CompressedTensors(
      R"("a": )" + Group(tensor, "null") + R"(, "b": )" +
          Group(kChannel, kToken, R"(["re:.*self_attn\\.(q|k|v|o)_proj$"])") + R"(, "c": )" +
          Group(nvfp4, local, R"(["re:.*mlp\\.", "model.layers.1.self_attn.k_proj"])"),
      R"(, "ignore": ["lm_head", "re:.*gate$"],
          "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor"})"));
  EXPECT_EQ(config.Of(kQuery).scheme, kFp8PerChannel);
  EXPECT_EQ(config.Of(kUp).scheme, kNvfp4);
  EXPECT_EQ(config.Of("model.layers.1.self_attn.k_proj").scheme, kNvfp4);  // by its own name
  EXPECT_EQ(config.Of("model.other").scheme, kFp8PerTensor);               // by its class
  EXPECT_EQ(config.Of("lm_head").scheme, kPlainWeights);
  EXPECT_EQ(config.Of("model.layers.0.mlp.gate").scheme, kPlainWeights);
  EXPECT_TRUE(config.fp8_kv_cache());
}

TEST(QuantizationConfigTest, ModelOpt) {
  const auto of = [](const std::string& algorithm) {
    return Parse(R"({"quant_method": "modelopt", "quant_algo": ")" + algorithm + "\"}").Of(kUp);
  };
  EXPECT_EQ(of("FP8"), (LinearQuantization{kFp8PerTensor, ActivationQuant::kStaticPerTensor}));
  EXPECT_EQ(of("fp8_per_channel_per_token"),
            (LinearQuantization{kFp8PerChannel, ActivationQuant::kDynamicPerToken}));
  EXPECT_EQ(of("fp8_pb_wo"), (LinearQuantization{kFp8PerBlock, ActivationQuant::kNone}));
  EXPECT_EQ(of("MXFP8"), (LinearQuantization{kMxfp8, ActivationQuant::kDynamicMx}));

  // hf_quant_config.json alone.
  const QuantizationConfig config = Parse(R"({"producer": {"name": "modelopt"},
      "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8",
                       "exclude_modules": ["lm_head", "model.layers.1.self_attn*"]}})");
  EXPECT_EQ(config.method(), "modelopt");
  EXPECT_EQ(config.Of(kUp).scheme, kFp8PerTensor);
  EXPECT_EQ(config.Of(kQuery).scheme, kPlainWeights);
  EXPECT_TRUE(config.fp8_kv_cache());

  const QuantizationConfig mixed = Parse(R"({"quant_method": "modelopt",
      "quant_algo": "MIXED_PRECISION",
      "quantized_layers": {"model.layers.0.mlp.up_proj": {"quant_algo": "MXFP8"}}})");
  EXPECT_EQ(mixed.Of(kUp).scheme, kMxfp8);
  EXPECT_EQ(mixed.Of(kQuery).scheme, kPlainWeights);
}

TEST(QuantizationConfigTest, Dualfp) {
  const QuantizationConfig config =
      Parse(R"({"quant_method": "dualfp", "format": "nested12", "version": 1})");
  EXPECT_EQ(config.format(), "nested12");
  ExpectInvalid(R"({"quant_method": "dualfp", "format": "nested13"})", ErrorCode::kUnsupported,
                "format");
  ExpectInvalid(R"({"quant_method": "dualfp", "format": "nested12", "version": 2})",
                ErrorCode::kUnsupported, "format");
}

TEST(QuantizationConfigTest, WhatCannotBeReadIsNamed) {
  const ErrorCode kInvalid = ErrorCode::kInvalidFile;
  const ErrorCode kUnsupported = ErrorCode::kUnsupported;
  ExpectInvalid("[]", kInvalid, "object");
  ExpectInvalid("{}", kUnsupported, "quant_method");
  ExpectInvalid(R"({"quant_method": 8})", kInvalid, "quant_method");
  ExpectInvalid(R"({"quant_method": "gptq", "bits": 4})", kUnsupported, "gptq");
  ExpectInvalid(R"({"quant_method": "fp8", "activation_scheme": "sometimes"})", kInvalid,
                "activation_scheme");
  ExpectInvalid(R"({"quant_method": "fp8", "weight_block_size": [64, 64]})", kUnsupported,
                "weight_block_size");
  ExpectInvalid(R"({"quant_method": "fp8", "weight_block_size": [128]})", kUnsupported,
                "weight_block_size");
  ExpectInvalid(R"({"quant_method": "fp8", "weight_block_size": [128, 128],
                    "activation_scheme": "static"})",
                kInvalid, "activation_scheme");
  ExpectInvalid(R"({"quant_method": "fp8", "ignored_layers": "lm_head"})", kInvalid,
                "ignored_layers");
  ExpectInvalid(R"({"quant_method": "fp8", "ignored_layers": ["re:("]})", kInvalid, "re:(");
  ExpectInvalid(R"({"quant_method": "fp8", "kv_cache_scheme": "dynamic"})", kUnsupported,
                "kv_cache_scheme");
  ExpectInvalid(R"({"quant_method": "compressed-tensors"})", kInvalid, "config_groups");
  ExpectInvalid(CompressedTensors(R"("g": {"targets": ["Linear"]})"), kInvalid, "weights");
  ExpectInvalid(CompressedTensors(R"("g": )" + Group(R"({"num_bits": 4, "type": "int"})", "null")),
                kUnsupported, "num_bits");
  ExpectInvalid(CompressedTensors(R"("g": )" + Group(R"({"type": "float", "strategy": "block",
                                             "block_structure": [64, 128]})",
                                                     "null")),
                kUnsupported, "block_structure");
  ExpectInvalid(CompressedTensors(R"("g": )" + Group(kChannel, R"({"num_bits": 8})")), kUnsupported,
                "input_activations");
  ExpectInvalid(CompressedTensors(R"("g": )" + Group(kChannel, kToken),
                                  R"(, "sparsity_config": {"format": "sparse-24-bitmask"})"),
                kUnsupported, "sparsity_config");
  ExpectInvalid(R"({"quant_method": "modelopt"})", kInvalid, "quant_algo");
  ExpectInvalid(R"({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"})", kUnsupported,
                "quant_algo");
  ExpectInvalid(R"({"quant_method": "modelopt", "quant_algo": "FP8",
                    "kv_cache_quant_algo": "INT8"})",
                kUnsupported, "kv_cache_quant_algo");
}

}  // namespace
}  // namespace dualfp
