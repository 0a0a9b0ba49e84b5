#include "dualfp/server/openai/openai_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "dualfp/base/check.h"
#include "dualfp/server/openai/api_error.h"

namespace dualfp {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

RequestRules Rules() {
  RequestRules rules;
  rules.vocab_size = 100;
  rules.max_model_len = 64;
  rules.max_logprobs = 5;
  rules.max_choices = 8;
  rules.allow_priority = true;
  return rules;
}

CompletionRequest Completion(const std::string& fields) {
  return ParseCompletionRequest("{\"prompt\": \"a\"" + fields + "}", Rules());
}

ChatCompletionRequest Chat(const std::string& fields) {
  return ParseChatRequest(
      "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]" + fields + "}", Rules());
}

// The error that `call` ends in; status 0 when there is none.
ApiError ErrorOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const ApiError& error) {
    return error;
  }
  return {0, "no error"};
}

TEST(CompletionRequest, DefaultsAreOpenAis) {
  const CompletionRequest request = Completion("");
  const SamplingParams& sampling = request.options.sampling;
  EXPECT_EQ(sampling.max_tokens, 16);
  EXPECT_TRUE(request.options.max_tokens_is_default);
  EXPECT_EQ(sampling.n, 1);
  EXPECT_EQ(sampling.temperature, 1.0f);
  EXPECT_EQ(sampling.top_p, 1.0f);
  EXPECT_EQ(sampling.top_k, 0);
  EXPECT_EQ(sampling.repetition_penalty, 1.0f);
  EXPECT_FALSE(sampling.seed.has_value());
  EXPECT_FALSE(sampling.logprobs.has_value());
  EXPECT_TRUE(sampling.skip_special_tokens);
  EXPECT_FALSE(request.echo);
  EXPECT_FALSE(request.options.stream);
  EXPECT_TRUE(request.options.add_special_tokens);
  EXPECT_EQ(request.options.precision, PrecisionPin::kAuto);
  EXPECT_THAT(request.options.unknown_fields, IsEmpty());
}

TEST(CompletionRequest, PublishersDefaultsFillWhatTheRequestLeavesOpen) {
  RequestRules rules = Rules();
  rules.defaults.temperature = 0.25f;
  rules.defaults.top_k = 7;
  rules.defaults.repetition_penalty = 1.5f;
  const auto request = ParseCompletionRequest(R"({"prompt": "a", "top_k": -1})", rules);
  EXPECT_EQ(request.options.sampling.temperature, 0.25f);
  EXPECT_EQ(request.options.sampling.top_k, -1);
  EXPECT_EQ(request.options.sampling.repetition_penalty, 1.5f);
}

TEST(CompletionRequest, ReadsEveryField) {
  const CompletionRequest request = Completion(R"(, "model": "m", "max_tokens": 3,
    "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "n": 2, "seed": -3,
    "stop": ["x", "yz"], "stop_token_ids": [4, 5], "include_stop_str_in_output": true,
    "stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true},
    "echo": true, "logprobs": 2, "logit_bias": {"7": -100, "8": 2.5}, "presence_penalty": -2,
    "frequency_penalty": 2, "repetition_penalty": 1.1, "min_tokens": 1, "ignore_eos": true,
    "skip_special_tokens": false, "add_special_tokens": false, "truncate_prompt_tokens": 9,
    "priority": -4, "user": "u", "precision": "fp16", "best_of": 2, "cache_salt": "s",
    "ttft_target": 0.5, "tpot_target": 0.05)");
  const GenerationOptions& options = request.options;
  const SamplingParams& sampling = options.sampling;
  EXPECT_EQ(options.model, "m");
  EXPECT_EQ(sampling.max_tokens, 3);
  EXPECT_FALSE(options.max_tokens_is_default);
  EXPECT_EQ(sampling.temperature, 0.5f);
  EXPECT_EQ(sampling.top_p, 0.9f);
  EXPECT_EQ(sampling.top_k, 40);
  EXPECT_EQ(sampling.min_p, 0.1f);
  EXPECT_EQ(sampling.n, 2);
  EXPECT_EQ(sampling.seed, static_cast<uint64_t>(-3));
  EXPECT_THAT(sampling.stop, ElementsAre("x", "yz"));
  EXPECT_THAT(sampling.stop_token_ids, ElementsAre(4, 5));
  EXPECT_TRUE(sampling.include_stop_str_in_output);
  EXPECT_TRUE(options.stream && options.include_usage && options.continuous_usage);
  EXPECT_TRUE(request.echo && request.generate);
  EXPECT_EQ(sampling.logprobs, 2);
  EXPECT_EQ(sampling.prompt_logprobs, 2) << "echo with logprobs reports the prompt's as well";
  EXPECT_THAT(sampling.logit_bias, ElementsAre(Pair(7, -100.0f), Pair(8, 2.5f)));
  EXPECT_EQ(sampling.presence_penalty, -2.0f);
  EXPECT_EQ(sampling.frequency_penalty, 2.0f);
  EXPECT_EQ(sampling.repetition_penalty, 1.1f);
  EXPECT_EQ(sampling.min_tokens, 1);
  EXPECT_TRUE(sampling.ignore_eos);
  EXPECT_FALSE(sampling.skip_special_tokens);
  EXPECT_FALSE(options.add_special_tokens);
  EXPECT_EQ(options.truncate_prompt_tokens, 9);
  EXPECT_EQ(options.priority, -4);
  EXPECT_EQ(options.precision, PrecisionPin::kExact);
  EXPECT_EQ(options.cache_salt, "s");
  EXPECT_EQ(options.ttft_target, 0.5);
  EXPECT_EQ(options.tpot_target, 0.05);
  EXPECT_THAT(options.unknown_fields, IsEmpty());
}

TEST(CompletionRequest, PromptsOfEveryForm) {
  const auto prompts = [](const std::string& prompt) {
    return ParseCompletionRequest("{\"prompt\": " + prompt + "}", Rules()).prompts;
  };
  EXPECT_THAT(prompts(R"("abc")"), ElementsAre(Prompt("abc")));
  EXPECT_THAT(prompts(R"(["a", "b"])"), ElementsAre(Prompt("a"), Prompt("b")));
  EXPECT_THAT(prompts("[1, 2, 3]"), ElementsAre(Prompt(std::vector<int32_t>{1, 2, 3})));
  EXPECT_THAT(prompts("[[1], [2, 99]]"),
              ElementsAre(Prompt(std::vector<int32_t>{1}), Prompt(std::vector<int32_t>{2, 99})));
}

TEST(CompletionRequest, EchoWithoutTokensOnlyScores) {
  const CompletionRequest request = Completion(R"(, "echo": true, "max_tokens": 0, "logprobs": 1)");
  EXPECT_FALSE(request.generate);
  EXPECT_EQ(request.options.sampling.max_tokens, 1);
}

TEST(CompletionRequest, UnknownFieldsAreNamed) {
  const CompletionRequest request =
      Completion(R"(, "tempreature": 1, "stream": true, "stream_options": {"usage": true})");
  EXPECT_THAT(request.options.unknown_fields, ElementsAre("stream_options.usage", "tempreature"));
}

struct BadField {
  std::string fields;
  std::string param;
};

class BadCompletion : public ::testing::TestWithParam<BadField> {};

TEST_P(BadCompletion, IsRefusedByName) {
  const ApiError error = ErrorOf([] { Completion(GetParam().fields); });
  EXPECT_EQ(error.status(), 400) << error.what();
  EXPECT_EQ(error.param(), GetParam().param) << error.what();
  EXPECT_THAT(error.what(), HasSubstr(GetParam().param));
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadCompletion,
    ::testing::Values(
        BadField{R"(, "max_tokens": -1)", "max_tokens"},
        BadField{R"(, "max_tokens": 0)", "max_tokens"},
        BadField{R"(, "max_tokens": 1.5)", "max_tokens"},
        BadField{R"(, "max_tokens": "3")", "max_tokens"},
        BadField{R"(, "max_tokens": 1e300)", "max_tokens"}, BadField{R"(, "n": 10000)", "n"},
        BadField{R"(, "n": 0)", "n"}, BadField{R"(, "temperature": 1e30)", "temperature"},
        BadField{R"(, "temperature": -0.1)", "temperature"},
        BadField{R"(, "temperature": "hot")", "temperature"},
        BadField{R"(, "temperature": true)", "temperature"}, BadField{R"(, "top_p": 0)", "top_p"},
        BadField{R"(, "top_p": 1e-300)", "top_p"}, BadField{R"(, "top_p": 1.01)", "top_p"},
        BadField{R"(, "top_k": -2)", "top_k"}, BadField{R"(, "min_p": 2)", "min_p"},
        BadField{R"(, "presence_penalty": 3)", "presence_penalty"},
        BadField{R"(, "frequency_penalty": -3)", "frequency_penalty"},
        BadField{R"(, "repetition_penalty": 0)", "repetition_penalty"},
        BadField{R"(, "seed": 1e40)", "seed"}, BadField{R"(, "stop": 1)", "stop"},
        BadField{R"(, "stop": [""])", "stop"}, BadField{R"(, "stop": [1])", "stop"},
        BadField{R"(, "stop_token_ids": [100])", "stop_token_ids"},
        BadField{R"(, "stop_token_ids": "1")", "stop_token_ids"},
        BadField{R"(, "stream": 1)", "stream"},
        BadField{R"(, "stream_options": {})", "stream_options"},
        BadField{R"(, "stream": true, "stream_options": 1)", "stream_options"},
        BadField{R"(, "stream": true, "stream_options": {"include_usage": 1})",
                 "stream_options.include_usage"},
        BadField{R"(, "logprobs": 6)", "logprobs"}, BadField{R"(, "logprobs": true)", "logprobs"},
        BadField{R"(, "prompt_logprobs": -1)", "prompt_logprobs"},
        BadField{R"(, "prompt_logprobs": 1, "stream": true)", "prompt_logprobs"},
        BadField{R"(, "logit_bias": {"100": 1})", "logit_bias"},
        BadField{R"(, "logit_bias": {"-1": 1})", "logit_bias"},
        BadField{R"(, "logit_bias": {"x": 1})", "logit_bias"},
        BadField{R"(, "logit_bias": {"1": 101})", "logit_bias"},
        BadField{R"(, "logit_bias": [1])", "logit_bias"},
        BadField{R"(, "min_tokens": 4, "max_tokens": 3)", "min_tokens"},
        BadField{R"(, "min_tokens": -1)", "min_tokens"},
        BadField{R"(, "truncate_prompt_tokens": 0)", "truncate_prompt_tokens"},
        BadField{R"(, "truncate_prompt_tokens": -2)", "truncate_prompt_tokens"},
        BadField{R"(, "priority": 1e12)", "priority"}, BadField{R"(, "user": 1)", "user"},
        BadField{R"(, "precision": "fp4")", "precision"},
        BadField{R"(, "precision": 8)", "precision"}, BadField{R"(, "best_of": 2)", "best_of"},
        BadField{R"(, "suffix": "x")", "suffix"}, BadField{R"(, "echo": "yes")", "echo"},
        BadField{R"(, "response_format": {"type": "json_object"})", "response_format.type"},
        BadField{R"(, "guided_json": {"a": 1})", "guided_json"},
        BadField{R"(, "model": 3)", "model"}));

TEST(CompletionRequest, BadPrompts) {
  for (const std::string prompt : {"null", "1", "[]", "{}", "[null]", "[1, \"a\"]", "[\"a\", 1]",
                                   "[[1], \"a\", {}]", "[-1]", "[100]", "[1.5]", "[[100]]"}) {
    const ApiError error =
        ErrorOf([&] { ParseCompletionRequest("{\"prompt\": " + prompt + "}", Rules()); });
    EXPECT_EQ(error.status(), 400) << prompt;
    EXPECT_EQ(error.param(), "prompt") << prompt;
  }
  const ApiError many =
      ErrorOf([&] { ParseCompletionRequest(R"({"prompt": ["a", "b", "c"], "n": 4})", Rules()); });
  EXPECT_EQ(many.param(), "prompt") << "n times the prompts is bounded";
}

TEST(RequestBody, BrokenJsonIsABadRequest) {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  for (const std::string& body :
       {std::string(), std::string("{"), std::string("[]"), std::string("nonsense"),
        std::string("{\"prompt\": \"\xff\xfe\"}"), std::string("{\"prompt\": \"\xed\xa0\x80\"}"),
        std::string(R"({"prompt": "a", "temperature": NaN})"),
        std::string(R"({"prompt": "a", "temperature": Infinity})"),
        std::string(R"({"prompt": "a", "temperature": 1e999})"),
        std::string(R"({"prompt": "a"} {})"), std::string("{\"prompt\": \"a\0\"}", 15), deep,
        "{\"prompt\": " + deep + "}"}) {
    const ApiError error = ErrorOf([&] { ParseCompletionRequest(body, Rules()); });
    EXPECT_EQ(error.status(), 400) << body.substr(0, 80);
    EXPECT_LT(std::string(error.what()).size(), 400u);
  }
}

TEST(ChatRequestFields, DefaultsAndLimits) {
  const ChatCompletionRequest request = Chat("");
  EXPECT_FALSE(request.options.sampling.max_tokens.has_value());
  EXPECT_FALSE(request.options.add_special_tokens) << "the template writes them";
  EXPECT_TRUE(request.prompt.add_generation_prompt);
  EXPECT_EQ(Chat(R"(, "max_tokens": 3)").options.sampling.max_tokens, 3);
  EXPECT_EQ(Chat(R"(, "max_tokens": 3, "max_completion_tokens": 4)").options.sampling.max_tokens,
            4);
}

TEST(UnsupportedFields, AreRefusedByName) {
  for (const char* field : {"return_tokens_as_token_ids", "use_beam_search", "grammar", "n_predict",
                            "json_schema", "typical_p", "length_penalty", "xtc_probability",
                            "chat_template", "documents", "bad_words", "guided_json"}) {
    for (const char* value : {"\"x\"", "0.5", "[1]", "{\"a\": 1}", "true"}) {
      const std::string fields = StrCat(", \"", field, "\": ", value);
      EXPECT_EQ(ErrorOf([&] { Completion(fields); }).param(), field) << value;
      EXPECT_EQ(ErrorOf([&] { Chat(fields); }).param(), field) << value;
    }
  }
  for (const char* neutral :
       {R"("return_tokens_as_token_ids": false)", R"("documents": [])", R"("chat_template": null)",
        R"("typical_p": 1)", R"("length_penalty": 1.0)", R"("top_n_sigma": -1)",
        R"("xtc_probability": 0)", R"("grammar": "")"}) {
    EXPECT_EQ(ErrorOf([&] { Completion(StrCat(", ", neutral)); }).status(), 0) << neutral;
  }
}

TEST(UnsupportedFields, OfChats) {
  for (const auto& [fields, param] : std::vector<std::pair<const char*, const char*>>{
           {R"("echo": true)", "echo"},
           {R"("tool_choice": "required")", "tool_choice"},
           {R"("tool_choice": {"type": "function", "function": {"name": "f"}})", "tool_choice"},
           {R"("function_call": {"name": "f"})", "function_call"},
           {R"("tools": [{}])", "tools"},
           {R"("tools": [{}], "tool_choice": "auto")", "tools"},
           {R"("functions": [{}])", "functions"},
           {R"("web_search_options": {"a": 1})", "web_search_options"},
       }) {
    EXPECT_EQ(ErrorOf([&] { Chat(StrCat(", ", fields)); }).param(), param) << fields;
  }
  for (const char* fields : {R"("tools": [{}], "tool_choice": "none")", R"("tool_choice": "auto")",
                             R"("functions": [{}], "function_call": "none")", R"("echo": false)"}) {
    EXPECT_EQ(ErrorOf([&] { Chat(StrCat(", ", fields)); }).status(), 0) << fields;
  }
  EXPECT_EQ(Chat(R"(, "reasoning_effort": "low")").prompt.template_arguments["reasoning_effort"],
            "low");
}

TEST(ChatRequestFields, LogprobsNeedTheSwitch) {
  EXPECT_EQ(Chat(R"(, "logprobs": true)").options.sampling.logprobs, 0);
  EXPECT_EQ(Chat(R"(, "logprobs": true, "top_logprobs": 3)").options.sampling.logprobs, 3);
  EXPECT_FALSE(Chat(R"(, "logprobs": false)").options.sampling.logprobs.has_value());
  EXPECT_EQ(ErrorOf([] { Chat(R"(, "top_logprobs": 3)"); }).param(), "top_logprobs");
  EXPECT_EQ(ErrorOf([] { Chat(R"(, "logprobs": 1)"); }).param(), "logprobs");
}

TEST(ChatRequestFields, MessagesGoToTheTemplateAsTheyAre) {
  const ChatCompletionRequest request = ParseChatRequest(
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
          {"type": "text", "text": "b"}]}, {"role": "assistant", "content": null,
          "name": "x"}], "chat_template_kwargs": {"k": 1}})",
      Rules());
  EXPECT_EQ(request.prompt.messages[0]["content"][1]["text"], "b");
  EXPECT_TRUE(request.prompt.messages[1]["content"].is_null());
  EXPECT_EQ(request.prompt.messages[1]["name"], "x");
  EXPECT_EQ(request.prompt.template_arguments["k"], 1);
}

TEST(ChatRequestFields, BadMessages) {
  for (const auto& [messages, param] : std::vector<std::pair<std::string, std::string>>{
           {"null", "messages"},
           {"[]", "messages"},
           {"\"hi\"", "messages"},
           {"[1]", "messages[0]"},
           {R"([{"content": "a"}])", "messages[0].role"},
           {R"([{"role": 1, "content": "a"}])", "messages[0].role"},
           {R"([{"role": "user"}])", "messages[0].content"},
           {R"([{"role": "user", "content": 1}])", "messages[0].content"},
           {R"([{"role": "user", "content": "a"}, {"role": "user", "content": [1]}])",
            "messages[1].content"},
           {R"([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])",
            "messages[0].content"},
           {R"([{"role": "user", "content": [{"type": "refusal", "text": "a"}]}])",
            "messages[0].content"},
       }) {
    const ApiError error =
        ErrorOf([&] { ParseChatRequest("{\"messages\": " + messages + "}", Rules()); });
    EXPECT_EQ(error.status(), 400) << messages;
    EXPECT_EQ(error.param(), param) << messages;
  }
}

TEST(ChatRequestFields, WhatWouldChangeTheAnswerIsRefused) {
  EXPECT_EQ(ErrorOf([] { Chat(R"(, "tools": [{"type": "function"}])"); }).param(), "tools");
  EXPECT_EQ(ErrorOf([] { Chat(R"(, "modalities": ["audio"])"); }).param(), "modalities");
  Chat(R"(, "tools": [{"type": "function"}], "tool_choice": "none")");
  Chat(R"(, "tools": [], "modalities": ["text"], "response_format": {"type": "text"})");
}

TEST(TokenizeRequest, TextOrConversation) {
  EXPECT_EQ(std::get<std::string>(ParseTokenizeRequest(R"({"prompt": "a"})").text), "a");
  EXPECT_TRUE(ParseTokenizeRequest(R"({"prompt": "a"})").add_special_tokens);
  const TokenizeRequest chat =
      ParseTokenizeRequest(R"({"messages": [{"role": "user", "content": "a"}]})");
  EXPECT_EQ(std::get<ChatPrompt>(chat.text).messages.size(), 1u);
  EXPECT_FALSE(chat.add_special_tokens);
  EXPECT_EQ(ErrorOf([] { ParseTokenizeRequest("{}"); }).param(), "prompt");
  EXPECT_EQ(ErrorOf([] { ParseTokenizeRequest(R"({"prompt": 1})"); }).param(), "prompt");
  EXPECT_EQ(ErrorOf([] { ParseDetokenizeRequest(R"({"tokens": [100]})", Rules()); }).param(),
            "tokens");
}

TEST(PrecisionRequest, ModesAndLayers) {
  EXPECT_EQ(ParsePrecisionRequest(R"({"mode": "fp8"})", 3).mode, PrecisionMode::kFp8);
  EXPECT_EQ(ParsePrecisionRequest(R"({"mode": "exact"})", 3).mode, PrecisionMode::kExact);
  EXPECT_EQ(ParsePrecisionRequest(R"({"mode": "fp16"})", 3).mode, PrecisionMode::kExact);
  EXPECT_EQ(ParsePrecisionRequest(R"({"mode": "auto"})", 3).mode, PrecisionMode::kAuto);
  const PrecisionSetting some = ParsePrecisionRequest(R"({"mode": "fp8", "layers": [2]})", 3);
  EXPECT_EQ(some.mode, PrecisionMode::kLayers);
  EXPECT_THAT(some.layers, ElementsAre(Precision::kExact, Precision::kExact, Precision::kFp8));
  const PrecisionSetting each = ParsePrecisionRequest(R"({"layers": ["fp8", "exact", "fp8"]})", 3);
  EXPECT_THAT(each.layers, ElementsAre(Precision::kFp8, Precision::kExact, Precision::kFp8));
  EXPECT_EQ(
      ParsePrecisionRequest(R"({"mode": "layers", "layers": ["fp8", "fp16", "fp8"]})", 3).layers,
      each.layers);
  for (const std::string body :
       {"{}", R"({"mode": "fp4"})", R"({"mode": 1})", R"({"layers": ["fp8"]})",
        R"({"layers": ["fp8", "x", "fp8"]})", R"({"mode": "fp8", "layers": [3]})",
        R"({"mode": "fp16", "layers": [1]})", R"({"mode": "fp8", "layers": 1})",
        R"({"mode": "layers"})", R"({"mode": "layers", "layers": [1]})"}) {
    EXPECT_EQ(ErrorOf([&] { ParsePrecisionRequest(body, 3); }).status(), 400) << body;
  }
}

}  // namespace
}  // namespace dualfp
