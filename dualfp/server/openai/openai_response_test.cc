#include "dualfp/server/openai/openai_response.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "dualfp/io/json.h"
#include "dualfp/server/openai/api_error.h"
#include "dualfp/server/openai/json_writer.h"

namespace dualfp {
namespace {

using ::testing::EndsWith;
using ::testing::StartsWith;

Json Parse(const std::string& text) { return ParseJson(text, "response"); }

// The JSON of an event.
Json ParseEvent(const std::string& event) {
  EXPECT_THAT(event, StartsWith("data: "));
  EXPECT_THAT(event, EndsWith("\n\n"));
  EXPECT_EQ(event.find('\n'), event.size() - 2) << "a line feed inside would end the event";
  return Parse(event.substr(6));
}

PositionEntry Position(int32_t id, const std::string& bytes, float logprob) {
  PositionEntry position;
  position.chosen = {id, logprob, 2, bytes};
  position.top = {{1, -0.25f, 1, "x"}, position.chosen};
  return position;
}

Usage SomeUsage() {
  Usage usage;
  usage.prompt_tokens = 5;
  usage.cached_tokens = 2;
  usage.completion_tokens = 4;
  usage.prompt_by_precision[0] = 3;
  usage.completion_by_precision[1] = 4;
  return usage;
}

TEST(JsonWriter, EscapesWhateverText) {
  std::string all;
  for (int i = 0; i < 128; ++i) {
    all += static_cast<char>(i);
  }
  all += "é日😀";
  std::string json;
  AppendJsonString(all, &json);
  EXPECT_EQ(Parse(json), all);
  json.clear();
  AppendJsonString("a\xff\xe6\x97z", &json);
  EXPECT_EQ(Parse(json), "a\xef\xbf\xbd\xef\xbf\xbdz");
}

TEST(JsonWriter, NumbersReadBack) {
  for (const double number : {0.0, -0.1, 1e-300, 1.7976931348623157e308, 123456789.125}) {
    JsonWriter json;
    EXPECT_EQ(Parse(json.Number(number).Take()).get<double>(), number);
  }
  for (const float number : {0.1f, -3.4e38f, 1e-45f}) {
    JsonWriter json;
    EXPECT_EQ(static_cast<float>(Parse(json.Number(number).Take()).get<double>()), number);
  }
  JsonWriter json;
  EXPECT_TRUE(Parse(json.Number(std::nan("")).Take()).is_null());
  JsonWriter infinite;
  EXPECT_TRUE(Parse(infinite.Number(std::numeric_limits<float>::infinity()).Take()).is_null());
}

TEST(ApiErrorJson, HasAllFields) {
  const Json error = Parse(ApiError(400, "bad \"n\"", "n", "invalid_value").ToJson())["error"];
  EXPECT_EQ(error["message"], "bad \"n\"");
  EXPECT_EQ(error["type"], "invalid_request_error");
  EXPECT_EQ(error["param"], "n");
  EXPECT_EQ(error["code"], "invalid_value");
  const Json other = Parse(ApiError(503, "later").ToJson())["error"];
  EXPECT_EQ(other["type"], "server_error");
  EXPECT_TRUE(other["param"].is_null());
  EXPECT_TRUE(other["code"].is_null());
}

TEST(Response, Completion) {
  ResponseChoice choice;
  choice.index = 0;
  choice.text = "日b";
  choice.logprobs = {Position(10, "\xe6\x97", -1.0f), Position(11, "\xa5", -2.0f),
                     Position(12, "b", -std::numeric_limits<float>::infinity())};
  choice.finish_reason = FinishReason::kStop;
  choice.stop_reason = std::string("END");
  const ResponseHead head{ResponseKind::kCompletion, "cmpl-1", 17, "m"};
  const Json json = Parse(
      WriteResponse(head, {.logprobs = true, .top_logprobs = 1}, {choice}, SomeUsage(), {{}}));
  EXPECT_EQ(json["id"], "cmpl-1");
  EXPECT_EQ(json["object"], "text_completion");
  EXPECT_EQ(json["created"], 17);
  const Json& first = json["choices"][0];
  EXPECT_EQ(first["text"], "日b");
  EXPECT_EQ(first["finish_reason"], "stop");
  EXPECT_EQ(first["stop_reason"], "END");
  const Json& logprobs = first["logprobs"];
  EXPECT_EQ(logprobs["tokens"], Json::array({"bytes:\\xe6\\x97", "bytes:\\xa5", "b"}));
  EXPECT_EQ(logprobs["text_offset"], Json::array({0, 1, 1}));
  EXPECT_EQ(logprobs["token_logprobs"], Json::array({-1.0, -2.0, -9999.0}));
  EXPECT_EQ(logprobs["top_logprobs"][2], Json({{"x", -0.25}, {"b", -9999.0}}))
      << "the chosen token is there beside the top ones";
  const Json& usage = json["usage"];
  EXPECT_EQ(usage["prompt_tokens"], 5);
  EXPECT_EQ(usage["completion_tokens"], 4);
  EXPECT_EQ(usage["total_tokens"], 9);
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], 2);
  EXPECT_EQ(usage["tokens_by_precision"],
            Json({{"prompt", {{"exact", 3}}}, {"completion", {{"fp8", 4}}}}));
}

TEST(Response, Chat) {
  ResponseChoice choice;
  choice.text = "hi";
  choice.logprobs = {Position(10, "hi", -1.0f)};
  choice.finish_reason = FinishReason::kLength;
  const ResponseHead head{ResponseKind::kChat, "chatcmpl-1", 17, "m"};
  const std::vector<PositionEntry> prompt = {{{3, 0.0f, 0, "p"}, false, {}},
                                             Position(10, "q", -1.5f)};
  const Json json =
      Parse(WriteResponse(head, {.logprobs = true, .top_logprobs = 2, .prompt_logprobs = true},
                          {choice}, SomeUsage(), {prompt}));
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["choices"][0]["message"], Json({{"role", "assistant"}, {"content", "hi"}}));
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(json["choices"][0]["stop_reason"].is_null());
  const Json& token = json["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(token["token"], "hi");
  EXPECT_EQ(token["bytes"], Json::array({104, 105}));
  EXPECT_EQ(token["top_logprobs"].size(), 2u);
  EXPECT_EQ(token["top_logprobs"][0]["token"], "x");
  ASSERT_EQ(json["prompt_logprobs"].size(), 2u);
  EXPECT_TRUE(json["prompt_logprobs"][0].is_null());
  EXPECT_EQ(json["prompt_logprobs"][1]["10"]["decoded_token"], "q");
  EXPECT_EQ(json["prompt_logprobs"][1]["1"]["rank"], 1);
}

TEST(Chunks, ChatStream) {
  const ResponseHead head{ResponseKind::kChat, "chatcmpl-1", 17, "m"};
  const ChunkWriter writer(head, {}, true);
  int64_t offset = 0;
  ResponseChoice delta;
  delta.index = 1;
  delta.text = "a\nb";
  std::string event;
  writer.AppendDelta(delta, true, nullptr, &offset, &event);
  Json json = ParseEvent(event);
  EXPECT_EQ(json["object"], "chat.completion.chunk");
  EXPECT_EQ(json["choices"][0]["index"], 1);
  EXPECT_EQ(json["choices"][0]["delta"], Json({{"role", "assistant"}, {"content", "a\nb"}}));
  EXPECT_TRUE(json["choices"][0]["finish_reason"].is_null());
  EXPECT_TRUE(json["usage"].is_null());

  event.clear();
  delta.finish_reason = FinishReason::kStop;
  delta.stop_reason = 42;
  writer.AppendDelta(delta, false, nullptr, &offset, &event);
  json = ParseEvent(event);
  EXPECT_EQ(json["choices"][0]["delta"], Json({{"content", "a\nb"}}));
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(json["choices"][0]["stop_reason"], 42);

  event.clear();
  writer.AppendUsage(SomeUsage(), &event);
  json = ParseEvent(event);
  EXPECT_EQ(json["choices"], Json::array());
  EXPECT_EQ(json["usage"]["total_tokens"], 9);
}

TEST(Chunks, TextOffsetsGoOn) {
  const ResponseHead head{ResponseKind::kCompletion, "cmpl-1", 17, "m"};
  const ChunkWriter writer(head, {.logprobs = true}, false);
  int64_t offset = 0;
  ResponseChoice delta;
  delta.logprobs = {Position(1, "ab", -1.0f)};
  std::string event;
  writer.AppendDelta(delta, true, nullptr, &offset, &event);
  event.clear();
  writer.AppendDelta(delta, false, nullptr, &offset, &event);
  const Json json = ParseEvent(event);
  EXPECT_EQ(json["choices"][0]["logprobs"]["text_offset"], Json::array({2}));
  EXPECT_FALSE(json.contains("usage"));
}

}  // namespace
}  // namespace dualfp
