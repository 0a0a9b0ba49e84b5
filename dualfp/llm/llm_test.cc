#include "dualfp/llm/llm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include "dualfp/base/error.h"
#include "dualfp/llm/layer_sensitivity.h"
#include "dualfp/llm/session.h"

namespace dualfp {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kModel = DUALFP_REFERENCE_MODEL;

LlmOptions SmallOptions() {
  LlmOptions options;
  options.model.model = kModel;
  options.model.threads = 2;
  options.max_model_len = 64;
  options.max_num_seqs = 2;
  options.precision = "fp16";
  return options;
}

template <typename Function>
std::string ErrorOf(ErrorCode code, const Function& function) {
  try {
    function();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "no error";
}

constexpr int kTokens = 12;

// What the engine writes after `prompt`, greedily.
std::vector<int32_t> Write(const Llm& llm, const std::vector<int32_t>& prompt) {
  Request request;
  request.prompt = prompt;
  request.sampling.temperature = 0;
  request.sampling.max_tokens = kTokens;
  request.sampling.ignore_eos = true;
  std::promise<void> finished;
  std::vector<int32_t> written;
  llm.engine->Submit(std::move(request), [&](const RequestOutput& output) {
    for (const auto& choice : output.choices) {
      written.insert(written.end(), choice.token_ids.begin(), choice.token_ids.end());
    }
    if (output.finished) {
      finished.set_value();
    }
  });
  finished.get_future().wait();
  return written;
}

// The same by a sequence on its decoder, with the prompt at one precision and the rest at another.
std::vector<int32_t> WriteOnDecoder(const Llm& llm, const std::vector<int32_t>& prompt,
                                    Precision prefill, Precision decode) {
  DecoderOptions options;
  options.limits = {.max_tokens = 32, .max_sequences = 1, .max_logit_rows = 1, .max_context = 64};
  Decoder decoder(*llm.model, options);
  Session session(decoder, llm.kv_dtype, 64);
  const Context context{.threads = llm.threads.get()};
  const int64_t layers = llm.config.num_hidden_layers;
  session.Append(context, prompt, PrecisionPlan::Uniform(layers, prefill));
  std::vector<int32_t> written;
  for (int i = 0; i < kTokens; ++i) {
    const std::span<const float> logits = session.last_logits();
    const auto token =
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    written.push_back(token);
    session.Append(context, {&token, 1}, PrecisionPlan::Uniform(layers, decode));
  }
  return written;
}

TEST(Llm, TheEngineWritesWhatASequenceOnItsDecoderDoes) {
  int64_t loaded = 0;
  std::atomic<int64_t> steps{0};
  LlmHooks hooks;
  hooks.progress = [&](int64_t done, int64_t /*total*/) { loaded = done; };
  hooks.on_step = [&](const StepReport& /*step*/) { ++steps; };
  const std::unique_ptr<Llm> llm = LoadLlm(SmallOptions(), std::move(hooks));
  EXPECT_GT(loaded, 0);
  EXPECT_THAT(llm->Describe(), HasSubstr("context 64"));

  const std::vector<int32_t> prompt = llm->text->Encode("In the beginning", true, {});
  const std::vector<int32_t> written = Write(*llm, prompt);
  EXPECT_GE(steps, kTokens - 1);  // the last one may not have been reported yet
  EXPECT_EQ(written, WriteOnDecoder(*llm, prompt, Precision::kExact, Precision::kExact));
}

TEST(Llm, ThePrefillPolicyReadsInFp8AndWritesExactly) {
  LlmOptions options = SmallOptions();
  options.precision = "auto";
  options.policy = "prefill";
  const std::unique_ptr<Llm> llm = LoadLlm(options, {});
  EXPECT_THAT(llm->Describe(), HasSubstr("precision: fp8+exact"));
  std::vector<int32_t> prompt(30);
  for (size_t i = 0; i < prompt.size(); ++i) {
    prompt[i] = static_cast<int32_t>(300 + i * i % 97);
  }
  EXPECT_EQ(Write(*llm, prompt), WriteOnDecoder(*llm, prompt, Precision::kFp8, Precision::kExact));
}

TEST(Llm, OptionsThatCannotBeAreErrorsThatSayWhatCan) {
  const auto load = [](const auto& change) {
    return [change] {
      LlmOptions options = SmallOptions();
      change(options);
      LoadLlm(options);
    };
  };
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidArgument,
                      load([](LlmOptions& o) { o.model.quantization = "fp7"; })),
              HasSubstr("quantization \"fp7\": expected one of auto, none, nested"));
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidArgument,
                      load([](LlmOptions& o) { o.model.load_format = "pickle"; })),
              HasSubstr("load_format \"pickle\""));
  EXPECT_THAT(
      ErrorOf(ErrorCode::kInvalidArgument, load([](LlmOptions& o) { o.kv_cache_dtype = "int8"; })),
      HasSubstr("kv_cache_dtype \"int8\""));
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidArgument, load([](LlmOptions& o) {
                        o.fp8_layers = {0, 99};
                      })),
              HasSubstr("layer 99 does not exist; the model has 8"));
  EXPECT_THAT(
      ErrorOf(ErrorCode::kUnsupported, load([](LlmOptions& o) { o.tensor_parallel_size = 2; })),
      HasSubstr("tensor-parallel-size 2"));
}

TEST(Llm, EndTokensAreThoseOfBothFilesOnce) {
  ModelConfig config;
  config.vocab_size = 10;
  config.eos_token_ids = {7, 2};
  GenerationConfig generation;
  generation.eos_token_ids = {2, 9, 10};  // the last is none of the model's
  EXPECT_THAT(EndTokenIds(config, generation, std::nullopt), ElementsAre(7, 2, 9));
  EXPECT_THAT(EndTokenIds(config, generation, 2), ElementsAre(7, 2, 9));
  EXPECT_THAT(EndTokenIds(config, generation, 5), ElementsAre(7, 2, 9, 5));
}

TEST(Llm, LayersComeBySensitivity) {
  const auto path = std::filesystem::path(::testing::TempDir()) / "llm_test_sensitivity.json";
  std::ofstream(path) << R"({"per_layer": [{"name": "layer 1", "mean_kl": {"value": 0.5}},
    {"name": "all qkv", "mean_kl": {"value": 0.0}}, {"name": "layer 0", "mean_kl": {"value": 2}},
    {"name": "layer 2", "mean_kl": {"value": 1}}]})";
  EXPECT_THAT(LayersBySensitivity(path, 3), ElementsAre(1, 2, 0));
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidFile, [&] { LayersBySensitivity(path, 2); }),
              HasSubstr("the model has layers 0 to 1"));
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidFile, [&] { LayersBySensitivity(path, 4); }),
              HasSubstr("no row \"layer 3\""));
}

}  // namespace
}  // namespace dualfp
