#include "dualfp/server/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dualfp/base/error.h"
#include "dualfp/server/testing/scripted_engine.h"
#include "dualfp/server/testing/toy_model.h"

namespace dualfp {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// What a client would see.
class Recorder : public ResponseSink {
 public:
  void Send(HttpResponse response) override {
    EXPECT_FALSE(sent.has_value() || streaming) << "answered twice";
    sent = std::move(response);
  }
  void BeginStream() override { streaming = true; }
  bool Write(std::string_view text) override {
    EXPECT_TRUE(streaming && !ended);
    events += text;
    return !too_slow;
  }
  void EndStream() override { ended = true; }
  void Summarize(const GenerationSummary& generation) override { summary = generation; }

  Json Body() const { return ParseJson(sent.value().body, "answer"); }

  // The JSON of each event; "[DONE]" as a string.
  std::vector<Json> Events() const {
    std::vector<Json> parsed;
    for (size_t begin = 0; begin < events.size();) {
      const size_t end = events.find("\n\n", begin);
      const std::string text = events.substr(begin + 6, end - begin - 6);
      parsed.push_back(text == "[DONE]" ? Json(text) : ParseJson(text, "event"));
      begin = end + 2;
    }
    return parsed;
  }

  std::optional<HttpResponse> sent;
  bool streaming = false;
  bool ended = false;
  bool too_slow = false;
  std::string events;
  std::optional<GenerationSummary> summary;
};

class ServiceTest : public ::testing::Test {
 protected:
  ServiceTest() : service_({}, [this] { ++wakes_; }) {
    engine_ = std::make_shared<testing::ScriptedEngine>();
    ServedModel model;
    model.names = {"toy", "other"};
    model.root = "/models/toy";
    model.created = 5;
    model.engine = engine_;
    model.text = testing::ToyCodec();
    service_.Attach(std::move(model));
  }

  static HttpRequest Post(const std::string& path, const std::string& body) {
    HttpRequest request;
    request.method = "POST";
    request.path = path;
    request.content_type = "application/json";
    request.body = body;
    return request;
  }

  HttpResponse Ask(const std::string& method, const std::string& path,
                   const std::string& body = "") {
    HttpRequest request = Post(path, body);
    request.method = method;
    return std::get<HttpResponse>(service_.Prepare(request));
  }

  void Deliver() {
    while (service_.Deliver()) {
    }
  }

  // The answer, which is an error.
  Json ErrorOf(const HttpResponse& response) { return ParseJson(response.body, "")["error"]; }

  std::shared_ptr<Generation> Generate(const std::string& path, const std::string& body,
                                       Recorder* recorder) {
    auto prepared = service_.Prepare(Post(path, body));
    if (auto* response = std::get_if<HttpResponse>(&prepared)) {
      recorder->Send(*response);
      return nullptr;
    }
    return service_.Start(std::move(std::get<1>(prepared)), recorder);
  }

  std::shared_ptr<testing::ScriptedEngine> engine_;
  int wakes_ = 0;
  Service service_;
};

TEST_F(ServiceTest, WholeCompletion) {
  Recorder recorder;
  Generate("/v1/completions", R"({"model": "other", "prompt": "ab", "max_tokens": 3})", &recorder);
  ASSERT_EQ(engine_->submitted.size(), 1u);
  EXPECT_THAT(engine_->submitted[0].request.prompt, ElementsAre('a' - ' ', 'b' - ' '));
  engine_->Emit(0, 0, "x", 1);
  EXPECT_EQ(wakes_, 1);
  engine_->Emit(0, 0, "yz", 2, FinishReason::kLength, true);
  EXPECT_EQ(wakes_, 1) << "one wake for all that waits";
  Deliver();
  ASSERT_TRUE(recorder.sent.has_value());
  const Json body = recorder.Body();
  EXPECT_EQ(body["model"], "other");
  EXPECT_EQ(body["choices"][0]["text"], "xyz");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(body["usage"]["completion_tokens"], 2);
  EXPECT_EQ(body["usage"]["tokens_by_precision"]["completion"]["fp8"], 2);
  EXPECT_EQ(service_.num_active(), 0u);
  EXPECT_EQ(recorder.summary->completion_tokens, 2);
  EXPECT_GE(recorder.summary->ttft_seconds, 0.0);
}

TEST_F(ServiceTest, StreamBeginsWithTheFirstToken) {
  Recorder recorder;
  Generate("/v1/chat/completions",
           R"({"messages": [{"role": "user", "content": "a"}], "stream": true,
               "stream_options": {"include_usage": true}})",
           &recorder);
  EXPECT_EQ(testing::ToyCodec()->Decode(engine_->submitted[0].request.prompt, true),
            "user: a\nassistant: ");
  Deliver();
  EXPECT_FALSE(recorder.streaming);
  engine_->Emit(0, 0, "x", 1);
  Deliver();
  EXPECT_EQ(recorder.Events().size(), 1u);
  engine_->Emit(0, 0, "", 2);  // half a character: a chunk nonetheless
  engine_->Emit(0, 0, "y", 3, FinishReason::kStop, true);
  Deliver();
  const std::vector<Json> events = recorder.Events();
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(events[0]["choices"][0]["delta"]["content"], "x");
  EXPECT_EQ(events[1]["choices"][0]["delta"]["content"], "");
  EXPECT_EQ(events[2]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events[3]["usage"]["completion_tokens"], 3);
  EXPECT_EQ(events[3]["choices"], Json::array());
  EXPECT_EQ(events[4], "[DONE]");
  EXPECT_TRUE(recorder.ended);
}

TEST_F(ServiceTest, ChoicesOfSeveralPromptsAreNumberedThrough) {
  Recorder recorder;
  Generate("/v1/completions", R"({"prompt": ["a", "b"], "n": 2, "max_tokens": 1})", &recorder);
  ASSERT_EQ(engine_->submitted.size(), 2u);
  engine_->Emit(1, 1, "D", 1, FinishReason::kLength);
  engine_->Emit(0, 0, "A", 1, FinishReason::kLength);
  engine_->Emit(1, 0, "C", 1, FinishReason::kLength, true);
  Deliver();
  EXPECT_FALSE(recorder.sent.has_value());
  engine_->Emit(0, 1, "B", 1, FinishReason::kLength, true);
  Deliver();
  const Json body = recorder.Body();
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(body["choices"][i]["index"], i);
    EXPECT_EQ(body["choices"][i]["text"], std::string(1, static_cast<char>('A' + i)));
  }
  EXPECT_EQ(body["usage"]["prompt_tokens"], 2);
  EXPECT_EQ(body["usage"]["completion_tokens"], 4);
}

TEST_F(ServiceTest, EchoPutsThePromptInFront) {
  Recorder whole;
  Generate("/v1/completions", R"({"prompt": "ab", "echo": true, "logprobs": 1, "max_tokens": 2})",
           &whole);
  engine_->Emit(0, 0, "x", 88, FinishReason::kLength, true);
  Deliver();
  const Json choice = whole.Body()["choices"][0];
  EXPECT_EQ(choice["text"], "abx");
  EXPECT_EQ(choice["logprobs"]["tokens"][0], "a") << "the first token has a text";
  EXPECT_TRUE(choice["logprobs"]["token_logprobs"][0].is_null()) << "but no logprob";
  EXPECT_EQ(choice["logprobs"]["tokens"].size(), 3u);

  Recorder stream;
  Generate("/v1/completions",
           R"({"prompt": [[65, 66]], "echo": true, "stream": true, "max_tokens": 2})", &stream);
  engine_->Emit(1, 0, "x", 88, FinishReason::kLength, true);
  Deliver();
  EXPECT_EQ(stream.Events()[0]["choices"][0]["text"], "abx");
}

TEST_F(ServiceTest, OffsetsCountTheText) {
  const auto offsets = [&](const std::string& body, const std::vector<int32_t>& generated) {
    Recorder recorder;
    Generate("/v1/completions", body, &recorder);
    const size_t id = engine_->submitted.size() - 1;
    for (size_t i = 0; i < generated.size(); ++i) {
      const bool last = i + 1 == generated.size();
      const std::string text = testing::ToyCodec()->Decode({&generated[i], 1}, false);
      engine_->Emit(id, 0, text, generated[i], last ? FinishReason::kLength : FinishReason::kNone,
                    last);
    }
    Deliver();
    return recorder.Body()["choices"][0]["logprobs"]["text_offset"];
  };
  const int32_t x = 'x' - ' ';
  // The scripted prompt logprobs stand for the prompt's tokens; <eos> is in no text.
  EXPECT_EQ(offsets(R"({"prompt": [65, 66], "echo": true, "logprobs": 1})", {x, x}),
            Json::array({0, 1, 2, 3}));
  EXPECT_EQ(offsets(R"({"prompt": [100, 66], "echo": true, "logprobs": 1})", {x, 100, x}),
            Json::array({0, 0, 1, 2, 2}));
  EXPECT_EQ(offsets(R"({"prompt": [65], "logprobs": 1, "skip_special_tokens": false})", {100, x}),
            Json::array({0, 5}));
}

TEST_F(ServiceTest, DefaultsThatNoRequestCouldHave) {
  ServedModel model;
  model.names = {"m"};
  model.engine = engine_;
  model.defaults.top_p = 0.0f;
  Service service({}, [] {});
  try {
    service.Attach(model);
    ADD_FAILURE() << "every request would be refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidFile);
    EXPECT_THAT(error.what(), HasSubstr("top_p"));
  }
  model.defaults.top_p = 1.0f;
  service.Attach(model);
}

TEST_F(ServiceTest, EchoWithoutTokensAnswersThePromptAlone) {
  Recorder recorder;
  Generate("/v1/completions", R"({"prompt": "ab", "echo": true, "logprobs": 0, "max_tokens": 0})",
           &recorder);
  engine_->Emit(0, 0, "x", 88, FinishReason::kLength, true);
  Deliver();
  const Json body = recorder.Body();
  EXPECT_EQ(body["choices"][0]["text"], "ab");
  EXPECT_EQ(body["choices"][0]["logprobs"]["tokens"].size(), 2u);
  EXPECT_EQ(body["usage"]["completion_tokens"], 0);
}

TEST_F(ServiceTest, ContextLength) {
  const auto ask = [&](const std::string& fields) {
    Recorder recorder;
    Generate("/v1/completions", "{" + fields + "}", &recorder);
    return recorder.sent ? recorder.Body()["error"] : Json();
  };
  const std::string hundred = "\"prompt\": \"" + std::string(100, 'a') + "\"";
  EXPECT_TRUE(ask(hundred + ", \"max_tokens\": 28").is_null());
  Json error = ask(hundred + ", \"max_tokens\": 29");
  EXPECT_EQ(error["code"], "context_length_exceeded");
  EXPECT_EQ(error["param"], "max_tokens");
  error = ask("\"prompt\": \"" + std::string(128, 'a') + "\"");
  EXPECT_EQ(error["code"], "context_length_exceeded");
  EXPECT_EQ(error["param"], "prompt");
  EXPECT_EQ(ask("\"prompt\": \"\"")["param"], "prompt");

  // The default of 16 gives way; a cut prompt fits.
  EXPECT_TRUE(ask("\"prompt\": \"" + std::string(120, 'a') + "\"").is_null());
  EXPECT_EQ(engine_->submitted.back().request.sampling.max_tokens, 8);
  EXPECT_TRUE(ask("\"prompt\": \"" + std::string(500, 'a') +
                  "bc\", \"truncate_prompt_tokens\": -1, \"max_tokens\": 20")
                  .is_null());
  EXPECT_EQ(engine_->submitted.back().request.prompt.size(), 108u);
  EXPECT_EQ(engine_->submitted.back().request.prompt.back(), 'c' - ' ');
  EXPECT_TRUE(ask("\"prompt\": [1, 2, 3, 4], \"truncate_prompt_tokens\": 2").is_null());
  EXPECT_THAT(engine_->submitted.back().request.prompt, ElementsAre(3, 4));
}

TEST_F(ServiceTest, EngineRefusals) {
  Recorder full;
  engine_->max_submitted = 1;
  Generate("/v1/completions", R"({"prompt": ["a", "b"]})", &full);
  EXPECT_EQ(full.sent->status, 429);
  EXPECT_THAT(full.sent->headers, ::testing::Contains(::testing::Pair("Retry-After", "1")));
  EXPECT_TRUE(engine_->submitted[0].cancelled) << "what was submitted before is taken back";
  engine_->Emit(0, 0, "x", 1, FinishReason::kAbort, true);
  Deliver();

  for (const auto& [code, status] :
       {std::pair(ErrorCode::kInvalidArgument, 400), std::pair(ErrorCode::kUnsupported, 400),
        std::pair(ErrorCode::kCancelled, 503), std::pair(ErrorCode::kInternal, 500)}) {
    engine_->fail_with = Error(code, "why");
    Recorder recorder;
    Generate("/v1/completions", R"({"prompt": "a"})", &recorder);
    EXPECT_EQ(recorder.sent->status, status);
    EXPECT_EQ(recorder.Body()["error"]["message"], "why");
  }
  EXPECT_EQ(service_.num_active(), 0u);
}

TEST_F(ServiceTest, FailuresOnTheWay) {
  Recorder whole;
  Generate("/v1/completions", R"({"prompt": "a"})", &whole);
  engine_->Emit(0, 0, "x", 1);
  engine_->Emit(0, 0, "", 1, FinishReason::kError, true, "NaN logits");
  Deliver();
  EXPECT_EQ(whole.sent->status, 500);
  EXPECT_EQ(whole.Body()["error"]["message"], "NaN logits");

  Recorder stream;
  Generate("/v1/completions", R"({"prompt": "a", "stream": true})", &stream);
  engine_->Emit(1, 0, "x", 1);
  engine_->Emit(1, 0, "", 1, FinishReason::kError, true, "NaN logits");
  Deliver();
  ASSERT_EQ(stream.Events().size(), 3u);
  EXPECT_EQ(stream.Events()[1]["error"]["message"], "NaN logits");
  EXPECT_EQ(stream.Events()[2], "[DONE]");
  EXPECT_TRUE(stream.ended);
}

TEST_F(ServiceTest, SlowReaderIsCancelled) {
  Recorder recorder;
  Generate("/v1/completions", R"({"prompt": ["a", "b"], "stream": true})", &recorder);
  recorder.too_slow = true;
  engine_->Emit(0, 0, "x", 1);
  engine_->Emit(1, 0, "x", 1);
  Deliver();
  EXPECT_EQ(recorder.Events().size(), 1u) << "nothing after the failed write";
  EXPECT_TRUE(engine_->submitted[0].cancelled && engine_->submitted[1].cancelled);
}

TEST_F(ServiceTest, ClientThatLeaves) {
  Recorder recorder;
  const auto generation =
      Generate("/v1/completions", R"({"prompt": "a", "stream": true})", &recorder);
  engine_->Emit(0, 0, "x", 1);
  Deliver();
  generation->Abandon();
  EXPECT_TRUE(engine_->submitted[0].cancelled);
  engine_->Emit(0, 0, "y", 1, FinishReason::kAbort, true);
  Deliver();
  EXPECT_EQ(recorder.Events().size(), 1u);
  EXPECT_EQ(service_.num_active(), 0u);
}

TEST_F(ServiceTest, ShutdownEndsWhatRunsWithAnError) {
  Recorder whole;
  Recorder stream;
  Generate("/v1/completions", R"({"prompt": "a"})", &whole);
  Generate("/v1/completions", R"({"prompt": "a", "stream": true})", &stream);
  engine_->Emit(1, 0, "x", 1);
  Deliver();
  service_.StopAccepting();
  EXPECT_EQ(Ask("POST", "/v1/completions", R"({"prompt": "a"})").status, 503);
  EXPECT_EQ(Ask("GET", "/health").status, 503);
  service_.FailAll();
  EXPECT_EQ(whole.sent->status, 503);
  EXPECT_EQ(stream.Events()[1]["error"]["code"], "shutting_down");
  EXPECT_TRUE(engine_->submitted[0].cancelled && engine_->submitted[1].cancelled);
}

TEST_F(ServiceTest, Routes) {
  EXPECT_EQ(Ask("GET", "/nowhere").status, 404);
  const HttpResponse wrong = Ask("GET", "/v1/completions");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_THAT(wrong.headers, ::testing::Contains(::testing::Pair("Allow", "POST, OPTIONS")));
  EXPECT_EQ(Ask("DELETE", "/v1/precision").status, 405);
  EXPECT_EQ(Ask("PATCH", "/").status, 405);
  EXPECT_EQ(Ask("", "/").status, 405);
  HttpRequest form = Post("/v1/completions", "a=b");
  form.content_type = "application/x-www-form-urlencoded";
  EXPECT_EQ(std::get<HttpResponse>(service_.Prepare(form)).status, 415);
  EXPECT_EQ(ErrorOf(Ask("POST", "/v1/completions", R"({"prompt": "a", "model": "gpt"})"))["code"],
            "model_not_found");
  EXPECT_THAT(Ask("GET", "/").body, HasSubstr("<!doctype html>"));
}

TEST_F(ServiceTest, Models) {
  const Json list = ParseJson(Ask("GET", "/v1/models").body, "");
  ASSERT_EQ(list["data"].size(), 2u);
  EXPECT_EQ(list["data"][0]["id"], "toy");
  EXPECT_EQ(list["data"][0]["max_model_len"], 128);
  EXPECT_EQ(list["data"][0]["root"], "/models/toy");
  EXPECT_EQ(ParseJson(Ask("GET", "/v1/models/other").body, "")["id"], "other");
  EXPECT_EQ(Ask("GET", "/v1/models/gone").status, 404);
}

TEST_F(ServiceTest, Tokenize) {
  const Json json = ParseJson(
      Ask("POST", "/tokenize", R"({"prompt": "a日", "return_token_strs": true})").body, "");
  EXPECT_EQ(json["tokens"], Json::array({65, 97, 98, 99}));
  EXPECT_EQ(json["count"], 4);
  EXPECT_EQ(json["token_strs"][1], "bytes:\\xe6");
  EXPECT_EQ(
      ParseJson(Ask("POST", "/detokenize", R"({"tokens": [65, 97, 98, 99]})").body, "")["prompt"],
      "a日");
  EXPECT_EQ(ErrorOf(Ask("POST", "/tokenize",
                        R"({"messages": [{"role": "clown", "content": "a"}]})"))["param"],
            "messages");
}

TEST_F(ServiceTest, Precision) {
  Json json = ParseJson(Ask("GET", "/v1/precision").body, "");
  EXPECT_EQ(json["mode"], "auto");
  EXPECT_EQ(json["controller"], "threshold");
  EXPECT_EQ(json["supported"], Json::array({"exact", "fp8"}));
  EXPECT_EQ(json["current"]["precision"], "exact");
  json = ParseJson(Ask("PUT", "/v1/precision", R"({"mode": "fp8", "layers": [1]})").body, "");
  EXPECT_EQ(json["mode"], "layers");
  EXPECT_EQ(json["layers"], Json::array({"exact", "fp8", "exact", "exact"}));
  EXPECT_EQ(Ask("PUT", "/v1/precision", R"({"mode": "fp32"})").status, 400);
}

TEST_F(ServiceTest, RequestPinsItsPrecision) {
  Recorder recorder;
  Generate("/v1/completions", R"({"prompt": "a", "precision": "fp8"})", &recorder);
  EXPECT_EQ(engine_->submitted[0].request.precision, PrecisionPin::kFp8);
}

TEST_F(ServiceTest, PrioritiesNeedTheirFlag) {
  for (const char* path : {"/v1/completions", "/v1/chat/completions"}) {
    const Json error = ErrorOf(
        Ask("POST", path,
            R"({"prompt": "a", "messages": [{"role": "user", "content": "a"}], "priority": -1})"));
    EXPECT_EQ(error["param"], "priority");
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("--enable-priorities"));
  }
  Recorder recorder;
  Generate("/v1/completions", R"({"prompt": "a", "priority": 0})", &recorder);
  EXPECT_EQ(engine_->submitted.size(), 1u);
}

TEST_F(ServiceTest, PathsOfModels) {
  EXPECT_EQ(ParseJson(Ask("GET", "/v1/models/").body, "")["object"], "list");
  EXPECT_EQ(Ask("GET", "/v1/models/toy/").status, 404);
}

}  // namespace
}  // namespace dualfp
