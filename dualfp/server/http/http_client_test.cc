// The client against the project's own server; servers that misbehave are in
// tests/serve/bench_test.py.

#include "dualfp/server/http/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "dualfp/base/error.h"
#include "dualfp/server/http/event_stream.h"
#include "dualfp/server/http/http_server.h"
#include "dualfp/server/testing/toy_model.h"

namespace dualfp {
namespace {

TEST(HttpUrlTest, Parses) {
  EXPECT_EQ(ParseHttpUrl("http://host").ToString(), "http://host:80");
  EXPECT_EQ(ParseHttpUrl("http://host:8000/").ToString(), "http://host:8000");
  EXPECT_EQ(ParseHttpUrl("http://[::1]:80/api/").ToString(), "http://[::1]:80/api");
  EXPECT_EQ(ParseHttpUrl("http://[::1]").host, "::1");
  for (const char* bad :
       {"", "host", "https://host", "http://", "http://:80", "http://h:", "http://h:0",
        "http://h:99999", "http://h:8x", "http://[::1", "http://[::1]8", "http://user@h",
        "http://h/a b", "http://h/?q", "ftp://h"}) {
    EXPECT_THROW(ParseHttpUrl(bad), Error) << bad;
  }
}

TEST(EventStreamTest, AnyCutGivesTheSameEvents) {
  const std::string stream =
      "data: one\n\n: comment\r\nid: 3\r\ndata:two\r\ndata: lines\r\n\r\ndata\n\nevent: x\n\n"
      "data: three\r\rdata: never finished\n";
  const std::vector<std::string> expected = {"one", "two\nlines", "", "three"};
  for (size_t size = 1; size <= stream.size(); ++size) {
    std::vector<std::string> events;
    EventStreamReader reader([&](std::string_view data) { events.emplace_back(data); });
    for (size_t at = 0; at < stream.size(); at += size) {
      reader.Feed(std::string_view(stream).substr(at, size));
    }
    ASSERT_EQ(events, expected) << size;
  }
}

class HttpClientTest : public ::testing::Test {
 protected:
  HttpClientTest() : server_(Config()), thread_([this] { server_.Run(); }) {
    server_.Attach(toy_.Serve());
  }
  ~HttpClientTest() override {
    server_.Stop();
    thread_.join();
  }
  static ServerConfig Config() {
    ServerConfig config;
    config.port = 0;
    return config;
  }
  HttpUrl Url() const { return {"127.0.0.1", server_.port(), ""}; }

  testing::ToyModel toy_;
  HttpServer server_;
  std::thread thread_;
};

TEST_F(HttpClientTest, HundredsOfStreamsAtATime) {
  HttpClient client(Url());
  int complete = 0;
  int events = 0;
  for (int i = 0; i < 300; ++i) {
    auto reader = std::make_shared<EventStreamReader>([&events](std::string_view) { ++events; });
    HttpCall call;
    call.method = "POST";
    call.path = "/v1/completions";
    call.body = R"({"prompt": "ab", "max_tokens": 5, "ignore_eos": true, "stream": true})";
    call.on_body = [reader](int status, std::string_view piece, TimePoint) {
      EXPECT_EQ(status, 200);
      reader->Feed(piece);
    };
    call.on_end = [&](int status, const std::string& error) {
      complete += status == 200 && error.empty() ? 1 : 0;
    };
    client.Send(std::move(call));
  }
  client.Run();
  EXPECT_EQ(complete, 300);
  EXPECT_EQ(events, 300 * 6);  // five tokens and [DONE]
}

TEST_F(HttpClientTest, AnswersAreDeliveredWhateverTheirStatus) {
  HttpClient client(Url());
  std::vector<int> seen;
  for (const char* path : {"/health", "/nowhere", "/v1/models"}) {
    HttpCall call;
    call.path = path;
    call.on_end = [&](int status, const std::string& error) {
      EXPECT_EQ(error, "");
      seen.push_back(status);
    };
    client.Send(std::move(call));
  }
  client.Run();
  EXPECT_THAT(seen, ::testing::UnorderedElementsAre(200, 404, 200));
}

TEST(HttpClientAloneTest, TimersRunInOrderAndStopEndsTheRun) {
  HttpClient client(HttpUrl{"127.0.0.1", 1, ""});
  std::string order;
  const TimePoint now = Clock::now();
  client.At(now + std::chrono::milliseconds(20), [&] { order += 'b'; });
  client.At(now + std::chrono::milliseconds(5), [&] { order += 'a'; });
  client.At(now + std::chrono::milliseconds(40), [&] { client.Stop(); });
  client.At(now + std::chrono::seconds(100), [&] { order += 'z'; });
  client.Run();
  EXPECT_EQ(order, "ab");
}

TEST(HttpClientAloneTest, NobodyListening) {
  HttpClient client(HttpUrl{"127.0.0.1", 1, ""});
  std::string message;
  HttpCall call;
  call.on_end = [&](int status, const std::string& error) {
    EXPECT_EQ(status, 0);
    message = error;
  };
  client.Send(std::move(call));
  client.Run();
  EXPECT_EQ(message, "cannot connect: Connection refused");
}

}  // namespace
}  // namespace dualfp
