#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "dualfp/base/error.h"
#include "dualfp/engine/request_limits.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;

RequestLimits Limits() {
  RequestLimits limits;
  limits.vocab_size = 96;
  limits.max_model_len = 128;
  limits.max_kv_tokens = 80;
  limits.has_vocabulary = false;
  limits.fp8_unsupported = "there is no FP8 plane";
  return limits;
}

Request MakeRequest() {
  Request request;
  request.prompt = {1, 2, 3, 4};
  request.sampling.max_tokens = 4;
  return request;
}

// "code: message" of the refusal of a request that `change` has spoiled.
template <typename Change>
std::string Refusal(Change change, RequestLimits limits = Limits()) {
  Request request = MakeRequest();
  change(request);
  try {
    ValidateRequest(request, limits);
  } catch (const Error& error) {
    return std::string(ErrorCodeName(error.code())) + ": " + error.what();
  }
  return "accepted";
}

TEST(ValidateRequest, NamesTheFieldItsValueAndItsRange) {
  const std::string invalid = "invalid_argument: ";
  EXPECT_EQ(Refusal([](Request& r) { r.prompt.clear(); }), invalid + "the prompt is empty");
  EXPECT_THAT(Refusal([](Request& r) { r.prompt[1] = 96; }), HasSubstr("token id 96"));
  EXPECT_THAT(Refusal([](Request& r) { r.prompt[1] = -1; }), HasSubstr("token id -1"));
  EXPECT_THAT(Refusal([](Request& r) { r.prompt.resize(128); }), HasSubstr("context of 128"));
  EXPECT_THAT(Refusal([](Request& r) { r.prompt.resize(90); }),
              HasSubstr("need 93 places in the KV cache, which has 80"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.max_tokens.reset(); }), HasSubstr("KV cache"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.max_tokens = 0; }), HasSubstr("max_tokens is 0"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.max_tokens = -1; }),
              HasSubstr("max_tokens is -1"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.min_tokens = 5; }), HasSubstr("min_tokens is 5"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.n = 0; }), HasSubstr("n is 0"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.n = 10000; }), HasSubstr("n is 10000"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.temperature = -1; }), HasSubstr("temperature"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.temperature = std::nanf(""); }),
              HasSubstr("temperature"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.temperature = INFINITY; }),
              HasSubstr("temperature"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.top_p = 0; }), HasSubstr("top_p"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.top_p = std::nanf(""); }), HasSubstr("top_p"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.top_k = -2; }), HasSubstr("top_k"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.min_p = 1.5; }), HasSubstr("min_p"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.presence_penalty = 3; }), HasSubstr("presence"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.frequency_penalty = -3; }),
              HasSubstr("frequency"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.repetition_penalty = 0; }),
              HasSubstr("repetition"));
  EXPECT_THAT(Refusal([](Request& r) {
                r.sampling.logit_bias = {{96, 1.0f}};
              }),
              HasSubstr("logit_bias contains token id 96"));
  EXPECT_THAT(Refusal([](Request& r) {
                r.sampling.logit_bias = {{1, 101.0f}};
              }),
              HasSubstr("[-100, 100]"));
  EXPECT_THAT(Refusal([](Request& r) {
                r.sampling.logit_bias = {{1, 1.0f}, {1, 2.0f}};
              }),
              HasSubstr("twice"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.stop_token_ids = {-1}; }),
              HasSubstr("stop_token_ids"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.stop = {"x"}; }), HasSubstr("tokenizer"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.logprobs = 21; }), HasSubstr("logprobs is 21"));
  EXPECT_THAT(Refusal([](Request& r) { r.sampling.prompt_logprobs = -1; }),
              HasSubstr("prompt_logprobs is -1"));
  EXPECT_THAT(Refusal([](Request& r) { r.ttft_target = -1; }), HasSubstr("ttft_target"));
  EXPECT_EQ(Refusal([](Request& r) { r.precision = PrecisionPin::kFp8; }),
            "unsupported: precision: there is no FP8 plane");
}

TEST(ValidateRequest, RefusesEmptyStopStrings) {
  RequestLimits limits = Limits();
  limits.has_vocabulary = true;
  EXPECT_THAT(Refusal(
                  [](Request& r) {
                    r.sampling.stop = {"a", ""};
                  },
                  limits),
              HasSubstr("empty string"));
}

TEST(ValidateRequest, MinTokensMustFitTheContext) {
  RequestLimits limits = Limits();
  limits.max_kv_tokens = 1000;
  const auto change = [](Request& r) {
    r.sampling.max_tokens.reset();
    r.sampling.min_tokens = 125;
  };
  EXPECT_THAT(Refusal(change, limits), HasSubstr("leaves room for 124"));
}

TEST(ValidateRequest, AcceptsTheExtremes) {
  const auto change = [](Request& r) {
    r.prompt.resize(50);
    r.sampling.max_tokens = 31;  // 50 + 31 - 1 places
    r.sampling.min_tokens = 31;
    r.sampling.temperature = 1e30f;
    r.sampling.top_k = 1000;
    r.sampling.min_p = 1.0f;
    r.sampling.logprobs = 20;
    r.sampling.prompt_logprobs = 0;
    r.sampling.n = 128;
    r.sampling.logit_bias = {{0, -100.0f}, {95, 100.0f}};
    r.precision = PrecisionPin::kExact;
  };
  EXPECT_EQ(Refusal(change), "accepted");
}

TEST(CompletionLimit, IsWhatTheContextLeaves) {
  Request request = MakeRequest();
  EXPECT_EQ(CompletionLimit(request, 128), 4);
  EXPECT_EQ(CompletionLimit(request, 6), 2);
  request.sampling.max_tokens.reset();
  EXPECT_EQ(CompletionLimit(request, 128), 124);
}

}  // namespace
}  // namespace dualfp
