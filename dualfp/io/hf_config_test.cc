// Broken and unusual configurations. That good ones mean what transformers means by them is checked
// against transformers itself in hf_config_test.py.

#include "dualfp/io/hf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dualfp/io/test_util.h"

namespace dualfp {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using testing_util::ErrorOf;
using testing_util::TemporaryDirectory;
using testing_util::WriteRaw;

// A small Llama, changed by merging `patch` into it; a null removes the field.
Json Config(std::string_view patch = "{}") {
  Json config = Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1000,
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 512
  })");
  config.merge_patch(Json::parse(patch));
  return config;
}

ModelConfig Parse(std::string_view patch) { return ParseModelConfig(Config(patch), "config.json"); }

std::string ErrorFor(ErrorCode code, std::string_view patch) {
  const std::string message = ErrorOf(code, [&] { Parse(patch); });
  EXPECT_THAT(message, StartsWith("config.json: "));
  return message;
}

std::string Invalid(std::string_view patch) { return ErrorFor(ErrorCode::kInvalidFile, patch); }
std::string Unsupported(std::string_view patch) { return ErrorFor(ErrorCode::kUnsupported, patch); }

TEST(ModelConfigTest, ReadsASmallLlama) {
  const ModelConfig config = Parse("{}");
  EXPECT_EQ(config.architecture, Architecture::kLlama);
  EXPECT_EQ(config.vocab_size, 1000);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.num_key_value_heads, 2);
  EXPECT_EQ(config.rope.type, RopeType::kDefault);
  EXPECT_EQ(config.rope.rotary_dim, 8);
  EXPECT_THAT(config.layer_window, ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2));
  EXPECT_FALSE(config.dtype);
  EXPECT_TRUE(config.quantization_config.is_null());
}

TEST(ModelConfigTest, UnknownArchitecturesAreNamed) {
  EXPECT_EQ(Unsupported(R"({"architectures": ["GPT2LMHeadModel"]})"),
            "config.json: field architectures: unsupported architecture \"GPT2LMHeadModel\", "
            "expected one of LlamaForCausalLM, MistralForCausalLM, Phi3ForCausalLM, "
            "Qwen2ForCausalLM, Qwen3ForCausalLM");
  EXPECT_THAT(Unsupported(R"({"architectures": [], "model_type": "gpt2"})"),
              HasSubstr("field model_type: unsupported architecture \"gpt2\""));
  EXPECT_THAT(Unsupported(R"({"architectures": ["LlamaModel"], "model_type": "gpt2"})"),
              HasSubstr("\"LlamaModel\""));
  EXPECT_THAT(Unsupported(R"({"architectures": ["LlamaModel"], "model_type": null})"),
              HasSubstr("\"LlamaModel\""));
  EXPECT_THAT(Invalid(R"({"architectures": null, "model_type": null})"),
              HasSubstr("field model_type: expected a string, but it is missing"));
  EXPECT_THAT(Invalid(R"({"architectures": "LlamaForCausalLM"})"), HasSubstr("an array"));
  EXPECT_THAT(Invalid(R"({"architectures": [1]})"), HasSubstr("architectures[0]"));
  EXPECT_EQ(Parse(R"({"architectures": null, "model_type": "qwen3"})").architecture,
            Architecture::kQwen3);
  // Base classes and other heads are read by their model_type.
  for (const std::string name : {"Qwen3Model", "Qwen3ForSequenceClassification", "QWEN3ForX"}) {
    EXPECT_EQ(Parse(StrCat(R"({"architectures": [")", name, R"("], "model_type": "qwen3"})"))
                  .architecture,
              Architecture::kQwen3);
  }
}

// Neither the base model nor a head of the family: something else is computed.
TEST(ModelConfigTest, OtherClassesOfAFamilyAreRefused) {
  for (const std::string name :
       {"MyQwen3ForCausalLM", "Qwen3MoeForCausalLM", "Qwen3", "Qwen3VLModel"}) {
    EXPECT_THAT(
        Unsupported(StrCat(R"({"architectures": [")", name, R"("], "model_type": "qwen3"})")),
        HasSubstr(StrCat("unsupported architecture \"", name)));
  }
}

TEST(ModelConfigTest, DTypeSpellings) {
  const auto dtype = [](const std::string& text) {
    const auto parsed = Parse(StrCat("{\"torch_dtype\": ", text, "}")).dtype;
    EXPECT_EQ(Parse(StrCat("{\"dtype\": ", text, "}")).dtype, parsed);
    return parsed;
  };
  for (const char* text : {"\"float32\"", "\"torch.float32\"", "\"float\"", "\"fp32\""}) {
    EXPECT_EQ(dtype(text), DType::kF32) << text;
  }
  for (const char* text : {"\"float16\"", "\"torch.half\"", "\"half\"", "\"fp16\""}) {
    EXPECT_EQ(dtype(text), DType::kF16) << text;
  }
  for (const char* text : {"\"bfloat16\"", "\"torch.bfloat16\"", "\"bf16\""}) {
    EXPECT_EQ(dtype(text), DType::kBF16) << text;
  }
  for (const char* text : {"\"auto\"", "\"float64\"", "\"float8_e4m3fn\"", "\"\"", "null"}) {
    EXPECT_EQ(dtype(text), std::nullopt) << text;
  }
}

TEST(ModelConfigTest, EverySizeIsRequiredPositiveAndBounded) {
  for (const std::string field : {"vocab_size", "hidden_size", "intermediate_size",
                                  "num_hidden_layers", "num_attention_heads"}) {
    EXPECT_THAT(Invalid(StrCat("{\"", field, "\": null}")),
                HasSubstr(StrCat("field ", field, ": expected an integer in [1, ")));
    for (const std::string value : {"0", "-1", "1.5", "\"64\"", "true", "[64]", "{\"a\": 1}",
                                    "9223372036854775807", "18446744073709551615", "1e300"}) {
      EXPECT_THAT(Invalid(StrCat("{\"", field, "\": ", value, "}")),
                  HasSubstr(StrCat("field ", field, ": expected an integer in [1, ")));
    }
  }
  for (const std::string field : {"max_position_embeddings", "num_key_value_heads", "head_dim"}) {
    for (const std::string value : {"0", "-1", "\"64\"", "9223372036854775807"}) {
      EXPECT_THAT(Invalid(StrCat("{\"", field, "\": ", value, "}")),
                  HasSubstr(StrCat("field ", field, ": expected an integer")));
    }
  }
}

TEST(ModelConfigTest, SizesMustFitTogether) {
  EXPECT_THAT(Invalid(R"({"num_key_value_heads": 3})"),
              HasSubstr("num_key_value_heads: expected a divisor of num_attention_heads (8), "
                        "got 3"));
  EXPECT_THAT(Invalid(R"({"num_key_value_heads": 16})"), HasSubstr("a divisor"));
  EXPECT_THAT(Invalid(R"({"hidden_size": 65})"), HasSubstr("hidden_size: expected a multiple"));
  EXPECT_EQ(Parse(R"({"hidden_size": 65, "head_dim": 8})").head_dim, 8);
  EXPECT_THAT(Invalid(R"({"num_attention_heads": 64, "num_key_value_heads": 1})"),
              HasSubstr("hidden_size: expected an even number of at least 2 rotary dimensions"));
  EXPECT_THAT(Invalid(R"({"head_dim": 7})"), HasSubstr("field head_dim: expected an even number"));
  EXPECT_THAT(Invalid(R"({"hidden_size": 1048576, "num_attention_heads": 1,
                          "num_key_value_heads": 1})"),
              HasSubstr("hidden_size: expected at most 16384 per attention head"));
  EXPECT_THAT(Invalid(R"({"num_attention_heads": 65536, "num_key_value_heads": 1,
                          "head_dim": 16384})"),
              HasSubstr("num_attention_heads * head_dim"));
}

// The largest sizes that pass: their products must fit in 63 bits.
TEST(ModelConfigTest, NoProductOfAcceptedSizesOverflows) {
  const ModelConfig config = Parse(R"({"vocab_size": 16777216, "hidden_size": 1048576,
      "intermediate_size": 4194304, "num_hidden_layers": 4096, "num_attention_heads": 64,
      "num_key_value_heads": 64, "head_dim": 16384, "max_position_embeddings": 134217728})");
  int64_t weights = 0;
  ASSERT_FALSE(__builtin_mul_overflow(
      config.hidden_size,
      4 * config.num_attention_heads * config.head_dim + 3 * config.intermediate_size, &weights));
  EXPECT_FALSE(__builtin_mul_overflow(weights, config.num_hidden_layers * 4, &weights));
  int64_t cache = 2 * 4;
  for (const int64_t size : {config.num_hidden_layers, config.num_key_value_heads, config.head_dim,
                             config.max_position_embeddings}) {
    EXPECT_FALSE(__builtin_mul_overflow(cache, size, &cache));
  }
}

TEST(ModelConfigTest, OtherFieldsAreChecked) {
  EXPECT_THAT(Unsupported(R"({"hidden_act": "relu2"})"),
              HasSubstr("field hidden_act: unsupported activation \"relu2\""));
  EXPECT_THAT(Invalid(R"({"hidden_act": 1})"), HasSubstr("field hidden_act: expected a string"));
  EXPECT_THAT(Invalid(R"({"rms_norm_eps": -1e-6})"), HasSubstr("field rms_norm_eps"));
  EXPECT_THAT(Invalid(R"({"rms_norm_eps": "1e-6"})"), HasSubstr("field rms_norm_eps"));
  EXPECT_THAT(Invalid(R"({"tie_word_embeddings": 1})"), HasSubstr("true or false, got 1"));
  EXPECT_THAT(Invalid(R"({"attention_bias": "no"})"), HasSubstr("field attention_bias"));
  EXPECT_THAT(Invalid(R"({"mlp_bias": 0})"), HasSubstr("field mlp_bias"));
  EXPECT_THAT(Invalid(R"({"dtype": 16})"), HasSubstr("field dtype: expected a string"));
  EXPECT_THAT(Invalid(R"({"quantization_config": "fp8"})"),
              HasSubstr("field quantization_config: expected an object"));
  EXPECT_THAT(Unsupported(R"({"per_layer_config": {"0": {}}})"), HasSubstr("per_layer_config"));
  EXPECT_EQ(Parse(R"({"quantization_config": {"quant_method": "fp8"}})").quantization_config.dump(),
            R"({"quant_method":"fp8"})");
  EXPECT_EQ(Parse(R"({"torch_dtype": "float16", "dtype": "bfloat16"})").dtype, DType::kBF16);
  EXPECT_EQ(Parse(R"({"torch_dtype": "float16"})").dtype, DType::kF16);
}

TEST(ModelConfigTest, TokenIds) {
  EXPECT_THAT(Parse(R"({"eos_token_id": [7, 9]})").eos_token_ids, ElementsAre(7, 9));
  EXPECT_EQ(Parse(R"({"pad_token_id": -1})").pad_token_id, std::nullopt);
  EXPECT_EQ(Parse(R"({"bos_token_id": [5]})").bos_token_id, 5);
  // merge_patch removes nulls, so this one is parsed from its text.
  Json config = Config();
  config["eos_token_id"] = nullptr;
  EXPECT_THAT(ParseModelConfig(config, "x").eos_token_ids, IsEmpty());
  EXPECT_THAT(Invalid(R"({"eos_token_id": "</s>"})"), HasSubstr("field eos_token_id"));
  EXPECT_THAT(Invalid(R"({"eos_token_id": [1, 2147483648]})"), HasSubstr("eos_token_id[1]"));
  EXPECT_THAT(Invalid(R"({"bos_token_id": -2})"), HasSubstr("field bos_token_id"));
}

TEST(ModelConfigTest, SlidingWindows) {
  const std::string qwen = R"("architectures": ["Qwen2ForCausalLM"], )";
  EXPECT_THAT(Parse("{" + qwen + R"("use_sliding_window": true, "sliding_window": 16,
                    "max_window_layers": 3})")
                  .layer_window,
              ElementsAre(0, 0, 0, 16));
  EXPECT_THAT(Parse("{" + qwen + R"("use_sliding_window": false, "sliding_window": 16,
                    "max_window_layers": 3})")
                  .layer_window,
              Each(0));
  EXPECT_THAT(Parse("{" + qwen + R"("use_sliding_window": true, "sliding_window": 16,
                    "layer_types": ["full_attention", "sliding_attention", "sliding_attention",
                                    "full_attention"]})")
                  .layer_window,
              ElementsAre(0, 16, 16, 0));
  EXPECT_THAT(
      Parse(R"({"architectures": ["MistralForCausalLM"], "sliding_window": 32})").layer_window,
      Each(32));
  EXPECT_THAT(Invalid("{" + qwen + R"("layer_types": ["full_attention"]})"),
              HasSubstr("layer_types: expected an entry for each of 4 layers, got 1"));
  EXPECT_THAT(Invalid("{" + qwen + R"("layer_types": ["sliding_attention", "full_attention",
                      "full_attention", "full_attention"]})"),
              HasSubstr("layer_types[0]: sliding_attention needs use_sliding_window"));
  EXPECT_THAT(Unsupported("{" + qwen + R"("layer_types": ["full_attention", "chunked_attention",
                          "full_attention", "full_attention"]})"),
              HasSubstr("layer_types[1]: unsupported layer type \"chunked_attention\""));
  EXPECT_THAT(Unsupported(R"({"architectures": ["MistralForCausalLM"], "sliding_window": 32,
                "layer_types": ["full_attention", "sliding_attention", "full_attention",
                                "sliding_attention"]})"),
              HasSubstr("not part of MistralForCausalLM"));
  for (const std::string value : {"0", "-1", "1.5", "\"a\""}) {
    EXPECT_THAT(Invalid(StrCat(R"({"architectures": ["MistralForCausalLM"], "sliding_window": )",
                               value, "}")),
                HasSubstr("field sliding_window: expected an integer"));
  }
}

// `rope` inside each spelling.
TEST(ModelConfigTest, RopeErrorsNameTheFieldInBothSpellings) {
  struct Case {
    std::string rope;
    std::string field;
    std::string expected;
    ErrorCode code = ErrorCode::kInvalidFile;
  };
  const std::vector<Case> cases = {
      {R"({"rope_type": "spiral"})", "rope_type", "unsupported RoPE type \"spiral\"",
       ErrorCode::kUnsupported},
      {R"({"type": "mrope"})", "type", "unsupported RoPE type \"mrope\"", ErrorCode::kUnsupported},
      {R"({"rope_type": 1})", "rope_type", "expected a string"},
      {R"({"rope_theta": 1.0})", "rope_theta", "expected a number"},
      {R"({"rope_theta": "10000"})", "rope_theta", "expected a number"},
      {R"({"full_attention": {"rope_type": "default"}})", "full_attention", "differ by layer",
       ErrorCode::kUnsupported},
      {R"({"partial_rotary_factor": 0.5})", "partial_rotary_factor", "not part of LlamaForCausalLM",
       ErrorCode::kUnsupported},
      {R"({"rope_type": "linear"})", "factor", "but it is missing"},
      {R"({"rope_type": "linear", "factor": 0})", "factor", "got 0"},
      {R"({"rope_type": "yarn", "factor": -1})", "factor", "got -1"},
      {R"({"rope_type": "linear", "factor": 1e300})", "factor", "expected a number"},
      {R"({"rope_type": "dynamic"})", "factor", "but it is missing"},
      {R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1})", "high_freq_factor",
       "but it is missing"},
      {R"({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 1})",
       "original_max_position_embeddings", "expected an integer in [2"},
      {R"({"rope_type": "yarn", "factor": 4, "truncate": 1})", "truncate", "true or false"},
      {R"({"rope_type": "yarn", "factor": 4, "attention_factor": -1})", "attention_factor",
       "got -1"},
      {R"({"rope_type": "longrope", "short_factor": [1, 1, 1, 1]})", "long_factor",
       "but it is missing"},
      {R"({"rope_type": "longrope", "short_factor": [1, 1, 1]})", "short_factor",
       "expected 4 numbers, half the rotary dimensions, got 3"},
      {R"({"rope_type": "longrope", "short_factor": [1, 1, 0, 1]})", "short_factor[2]", "got 0"},
      {R"({"rope_type": "longrope", "short_factor": 1})", "short_factor", "an array of numbers"},
  };
  for (const std::string spelling : {"rope_scaling", "rope_parameters"}) {
    for (const Case& rope : cases) {
      EXPECT_THAT(ErrorFor(rope.code, StrCat("{\"", spelling, "\": ", rope.rope, "}")),
                  AllOf(HasSubstr(StrCat("field ", spelling, ".", rope.field, ": ")),
                        HasSubstr(rope.expected)));
    }
    // Unusual, but not wrong.
    const auto parse = [&](const std::string& parameters) {
      return Parse(StrCat("{\"", spelling, "\": ", parameters, "}")).rope;
    };
    EXPECT_EQ(parse(R"({"type": "linear", "factor": 0.5})").factor, 0.5);
    EXPECT_EQ(parse(R"({"type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 2})").beta_slow,
              2);
    EXPECT_EQ(parse(R"({"type": "llama3", "factor": 8, "low_freq_factor": 4,
                        "high_freq_factor": 4})")
                  .high_freq_factor,
              4);
    EXPECT_EQ(
        parse(R"({"type": "yarn", "factor": 2, "long_mscale": 1, "_note": {"by": "us"}})").type,
        RopeType::kYarn);
    EXPECT_THAT(Invalid(StrCat("{\"", spelling, "\": []}")),
                HasSubstr(StrCat("field ", spelling, ": expected an object")));
  }
  EXPECT_THAT(Invalid(R"({"rope_theta": 0})"), HasSubstr("field rope_theta: expected a number"));
  EXPECT_THAT(Unsupported(R"({"architectures": ["Phi3ForCausalLM"],
                              "rope_scaling": {"type": "linear", "factor": 2}})"),
              HasSubstr("rope_scaling.type: unsupported RoPE type \"linear\" for Phi3ForCausalLM"));
  EXPECT_THAT(Invalid(R"({"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.1})"),
              HasSubstr("field partial_rotary_factor: expected an even number"));
  EXPECT_THAT(Invalid(R"({"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2}})"),
              HasSubstr("dynamic RoPE needs more than 2"));
  EXPECT_THAT(Invalid(R"({"max_position_embeddings": 1,
                          "rope_scaling": {"type": "yarn", "factor": 2}})"),
              HasSubstr("field max_position_embeddings: expected at least 2"));
}

TEST(ModelConfigTest, LoadNamesThePath) {
  const TemporaryDirectory directory;
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { LoadModelConfig(directory.path()); }),
              HasSubstr((directory / "config.json").string()));
  WriteRaw(directory / "config.json", "{\"architectures\": [\"Llama");
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidFile, [&] { LoadModelConfig(directory.path()); }),
              HasSubstr("config.json: near byte 25: not valid JSON"));
  WriteRaw(directory / "config.json", Config().dump());
  EXPECT_EQ(LoadModelConfig(directory.path()).hidden_size, 64);
}

TEST(GenerationConfigTest, ReadsAndChecksFields) {
  const GenerationConfig config = ParseGenerationConfig(
      Json::parse(R"({"bos_token_id": 1, "eos_token_id": [2, 3], "do_sample": true,
                      "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05,
                      "repetition_penalty": 1.05, "max_length": 4096, "max_new_tokens": 256,
                      "transformers_version": "4.51.0"})"),
      "generation_config.json");
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2, 3));
  EXPECT_EQ(config.pad_token_id, std::nullopt);
  EXPECT_EQ(config.do_sample, true);
  EXPECT_EQ(config.temperature, 0.6);
  EXPECT_EQ(config.top_p, 0.9);
  EXPECT_EQ(config.top_k, 20);
  EXPECT_EQ(config.min_p, 0.05);
  EXPECT_EQ(config.repetition_penalty, 1.05);
  EXPECT_EQ(config.max_length, 4096);
  EXPECT_EQ(config.max_new_tokens, 256);
  EXPECT_EQ(ParseGenerationConfig(Json::parse(R"({"top_k": -1})"), "x").top_k, 0);
  for (const std::string broken :
       {R"("temperature": -1)", R"("temperature": "hot")", R"("top_p": 1.5)", R"("top_k": 2.5)",
        R"("top_k": -2)", R"("do_sample": 1)", R"("min_p": 2)", R"("repetition_penalty": 0)",
        R"("max_length": -1)", R"("max_new_tokens": 1e99)", R"("eos_token_id": ["a"])"}) {
    EXPECT_THAT(
        ErrorOf(ErrorCode::kInvalidFile,
                [&] { ParseGenerationConfig(Json::parse(StrCat("{", broken, "}")), "g.json"); }),
        HasSubstr(StrCat("g.json: field ", broken.substr(1, broken.find('"', 1) - 1))));
  }
}

TEST(GenerationConfigTest, AMissingFileStatesNothing) {
  const TemporaryDirectory directory;
  const GenerationConfig config = LoadGenerationConfig(directory.path());
  EXPECT_THAT(config.eos_token_ids, IsEmpty());
  EXPECT_EQ(config.temperature, std::nullopt);
  WriteRaw(directory / "generation_config.json", "[]");
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidFile, [&] { LoadGenerationConfig(directory.path()); }),
              HasSubstr("generation_config.json: expected an object"));
}

}  // namespace
}  // namespace dualfp
