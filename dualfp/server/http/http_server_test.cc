// The server over real sockets, with clients that behave and clients that do not.

#include "dualfp/server/http/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <deque>
#include <thread>

#include "dualfp/base/error.h"
#include "dualfp/server/access_log.h"
#include "dualfp/server/testing/http_probe.h"
#include "dualfp/server/testing/running_server.h"

namespace dualfp {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Fetch;
using ::testing::HasSubstr;
using testing::HttpProbe;
using testing::PostHead;
using testing::ProbeResponse;
using testing::RunningServer;
using testing::StreamBody;
using testing::ToyOptions;

size_t CountEvents(const std::string& body) {
  size_t count = 0;
  for (size_t at = body.find("data: "); at != std::string::npos; at = body.find("data: ", at + 1)) {
    ++count;
  }
  return count;
}

TEST(HttpServer, AnswersOnOneConnectionAfterAnother) {
  RunningServer server;
  HttpProbe probe(server.port());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(probe.SendRequest("GET", "/health"));
    const ProbeResponse response = probe.Receive();
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.headers.at("connection"), "keep-alive");
    ASSERT_TRUE(probe.SendRequest("POST", "/v1/completions", R"({"prompt": "a"})"));
    EXPECT_EQ(probe.Receive().status, 200);
  }
  ASSERT_TRUE(probe.SendRequest("GET", "/version", "", "Connection: close\r\n"));
  EXPECT_EQ(probe.Receive().headers.at("connection"), "close");
  EXPECT_TRUE(probe.WaitForClose());
}

TEST(HttpServer, StreamsAndGoesOn) {
  RunningServer server;
  HttpProbe probe(server.port());
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(probe.SendRequest("POST", "/v1/completions", StreamBody(20)));
    const ProbeResponse response = probe.Receive();
    EXPECT_TRUE(response.complete);
    EXPECT_THAT(response.headers.at("content-type"), HasSubstr("text/event-stream"));
    EXPECT_EQ(CountEvents(response.body), 21u) << "a chunk for each token, and [DONE]";
  }
}

TEST(HttpServer, PipelinedRequestsAreAnsweredInOrder) {
  RunningServer server;
  HttpProbe probe(server.port());
  const std::string body = StreamBody(5);
  std::string both;
  for (int i = 0; i < 2; ++i) {
    both += PostHead() + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  }
  both += "GET /version HTTP/1.1\r\nHost: test\r\n\r\n";
  ASSERT_TRUE(probe.Send(both));
  ASSERT_TRUE(probe.WaitFor("\"version\""));
  EXPECT_EQ(CountEvents(probe.Receive().body), 6u);
}

TEST(HttpServer, Http10AndHead) {
  RunningServer server;
  HttpProbe old(server.port());
  const std::string body = StreamBody(5);
  ASSERT_TRUE(old.Send(
      "POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body));
  const ProbeResponse response = old.Receive();
  EXPECT_EQ(CountEvents(response.body), 6u);
  EXPECT_EQ(response.headers.count("transfer-encoding"), 0u);

  HttpProbe head(server.port());
  ASSERT_TRUE(head.SendRequest("HEAD", "/health", "", "Connection: close\r\n"));
  ASSERT_TRUE(head.WaitFor("\r\n\r\n"));
  EXPECT_EQ(head.Receive().body, "");
}

TEST(HttpServer, ContinuesWhenAsked) {
  RunningServer server;
  HttpProbe probe(server.port());
  ASSERT_TRUE(probe.Send(PostHead() + "Content-Length: 15\r\nExpect: 100-continue\r\n\r\n"));
  ASSERT_TRUE(probe.WaitFor("HTTP/1.1 100 Continue\r\n\r\n"));
  ASSERT_TRUE(probe.Send(R"({"prompt": "a"})"));
  ASSERT_TRUE(probe.WaitFor("text_completion"));
}

TEST(HttpServer, ClientsThatVanishFreeTheirRequests) {
  ToyOptions toy;
  toy.step_time = milliseconds(2);
  RunningServer server(toy);
  for (const bool stream : {true, false}) {
    for (const bool reset : {true, false}) {
      auto probe = std::make_unique<HttpProbe>(server.port());
      std::string body = StreamBody(1500);
      if (!stream) {
        body.replace(body.find("true"), 4, "false");
      }
      ASSERT_TRUE(probe->SendRequest("POST", "/v1/completions", body));
      if (stream) {
        ASSERT_TRUE(probe->WaitFor("data: "));
      } else {
        while (server.engine().Stats().num_running == 0) {
          std::this_thread::sleep_for(milliseconds(1));
        }
      }
      if (reset) {
        probe->Abort();
      }
      probe.reset();
      ASSERT_TRUE(server.WaitUntilIdle());
    }
  }
  EXPECT_EQ(server.engine().metrics().request_success_total[2].value(), 4u) << "aborted";
  EXPECT_LT(server.engine().metrics().generation_tokens_total.value(), 4 * 1500u);
  EXPECT_EQ(Fetch(server.port(), "GET", "/health").status, 200);
}

TEST(HttpServer, BodiesThatAreTooLarge) {
  ServerConfig config;
  config.max_body_bytes = 1 << 20;
  RunningServer server({}, config);
  // Announced: refused before it is sent.
  HttpProbe announced(server.port());
  ASSERT_TRUE(announced.Send(PostHead() + "Content-Length: 100000000\r\n\r\n"));
  EXPECT_EQ(announced.Receive().status, 413);
  // And though all 100 MB come, the answer can be read.
  HttpProbe sent(server.port());
  ASSERT_TRUE(sent.Send(PostHead() + "Content-Length: 100000000\r\n\r\n"));
  const std::string piece(1 << 20, ' ');
  for (int i = 0; i < 95 && sent.Send(piece); ++i) {
  }
  EXPECT_EQ(sent.Receive().status, 413);
  // In chunks: refused when the limit is passed.
  HttpProbe chunked(server.port());
  ASSERT_TRUE(chunked.Send(PostHead() + "Transfer-Encoding: chunked\r\n\r\n"));
  for (int i = 0; i < 95 && chunked.Send("100000\r\n" + piece + "\r\n"); ++i) {
  }
  EXPECT_EQ(chunked.Receive().status, 413);
}

TEST(HttpServer, BodiesTogetherAreBounded) {
  ServerConfig config;
  config.max_total_body_bytes = 3 << 20;
  RunningServer server({}, config);
  const std::string piece(1 << 20, ' ');
  std::deque<HttpProbe> probes;
  int refused = 0;
  for (int i = 0; i < 4; ++i) {
    HttpProbe& probe = probes.emplace_back(server.port());
    ASSERT_TRUE(probe.Send(PostHead() + "Content-Length: 2000000\r\n\r\n"));
    probe.Send(piece);
    std::this_thread::sleep_for(milliseconds(50));
  }
  refused += probes.back().Receive().status == 503 ? 1 : 0;
  EXPECT_EQ(refused, 1);
  probes.clear();
  EXPECT_EQ(Fetch(server.port(), "POST", "/v1/completions", R"({"prompt": "a"})").status, 200);
}

TEST(HttpServer, HeadsThatAreTooLargeOrNoneAtAll) {
  RunningServer server;
  HttpProbe large(server.port());
  large.Send("GET / HTTP/1.1\r\nX: " + std::string(100000, 'a') + "\r\n\r\n");
  EXPECT_EQ(large.Receive().status, 431);
  for (const std::string text : {"nonsense\r\n\r\n", "GET\r\n\r\n", "\x16\x03\x01\x02\x00\r\n\r\n",
                                 "GET / HTTP/9.9\r\n\r\n", "GET / HTTP/1.1\r\n: x\r\n\r\n"}) {
    HttpProbe probe(server.port());
    probe.Send(text);
    EXPECT_EQ(probe.Receive().status, 400) << text;
  }
  HttpProbe negative(server.port());
  negative.Send("POST /tokenize HTTP/1.1\r\nContent-Length: -1\r\n\r\n");
  EXPECT_EQ(negative.Receive().status, 400);
  EXPECT_EQ(Fetch(server.port(), "GET", "/health").status, 200);
}

TEST(HttpServer, RefusalWithoutReadingTheBodyClosesTheConnection) {
  ServerConfig config;
  config.api_keys = {"secret"};
  RunningServer server({}, config);
  HttpProbe probe(server.port());
  ASSERT_TRUE(probe.SendRequest("POST", "/v1/completions", R"({"prompt": "a"})"));
  const ProbeResponse response = probe.Receive();
  EXPECT_EQ(response.status, 401);
  EXPECT_EQ(response.headers.at("www-authenticate"), "Bearer");
  EXPECT_TRUE(probe.WaitForClose());
  EXPECT_EQ(Fetch(server.port(), "POST", "/v1/completions", R"({"prompt": "a"})",
                  "Authorization: Bearer secret\r\n")
                .status,
            200);
}

TEST(HttpServer, BadBodiesLeaveTheConnectionUsable) {
  RunningServer server;
  HttpProbe probe(server.port());
  const std::string deep = "{\"prompt\": " + std::string(500000, '[');
  for (const std::string& body :
       {std::string("{\"prompt\": \"\xff\"}"), deep, std::string("{}"), std::string("\0\0", 2),
        std::string(R"({"prompt": "a", "max_tokens": -1})")}) {
    ASSERT_TRUE(probe.SendRequest("POST", "/v1/completions", body));
    EXPECT_EQ(probe.Receive().status, 400);
  }
  ASSERT_TRUE(probe.SendRequest("POST", "/v1/completions", R"({"prompt": "a"})"));
  EXPECT_EQ(probe.Receive().status, 200);
}

TEST(HttpServer, IdleAndSlowConnectionsAreClosed) {
  ServerConfig config;
  config.idle_timeout = milliseconds(200);
  config.header_timeout = milliseconds(200);
  config.body_timeout = milliseconds(200);
  RunningServer server({}, config);
  HttpProbe idle(server.port());
  HttpProbe head(server.port());
  HttpProbe body(server.port());
  head.Send("GET / HT");
  body.Send(
      "POST /tokenize HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: "
      "100\r\n\r\n{");
  for (HttpProbe* probe : {&idle, &head, &body}) {
    EXPECT_TRUE(probe->WaitForClose(seconds(10)));
  }
  // A byte now and then does not help.
  HttpProbe dripping(server.port());
  bool open = true;
  for (int i = 0; i < 100 && open; ++i) {
    open = dripping.Send("X");
    std::this_thread::sleep_for(milliseconds(50));
  }
  EXPECT_FALSE(open);
}

TEST(HttpServer, FullServerDropsTheLongestWaiting) {
  ServerConfig config;
  config.max_connections = 4;
  ToyOptions toy;
  toy.step_time = milliseconds(2);
  RunningServer server(toy, config);
  HttpProbe streaming(server.port());
  streaming.SendRequest("POST", "/v1/completions", StreamBody(1000));
  ASSERT_TRUE(streaming.WaitFor("data: "));
  std::deque<HttpProbe> idle;
  for (int i = 0; i < 20; ++i) {
    idle.emplace_back(server.port());
  }
  EXPECT_EQ(Fetch(server.port(), "GET", "/health").status, 200);
  EXPECT_TRUE(idle.front().WaitForClose(seconds(10)));
  EXPECT_GE(server.Metric("http_connections_evicted_total"), 16);
  EXPECT_TRUE(streaming.WaitFor("[DONE]")) << "who is being answered stays";
}

TEST(HttpServer, FullOfStreamsRefuses) {
  ServerConfig config;
  config.max_connections = 2;
  ToyOptions toy;
  toy.step_time = milliseconds(2);
  RunningServer server(toy, config);
  std::deque<HttpProbe> streams;
  for (int i = 0; i < 2; ++i) {
    streams.emplace_back(server.port()).SendRequest("POST", "/v1/completions", StreamBody(500));
    ASSERT_TRUE(streams.back().WaitFor("data: "));
  }
  EXPECT_EQ(Fetch(server.port(), "GET", "/health").status, 503);
  for (HttpProbe& stream : streams) {
    EXPECT_TRUE(stream.WaitFor("[DONE]"));
  }
}

TEST(HttpServer, ReaderThatDoesNotReadIsCancelled) {
  ServerConfig config;
  config.max_stream_backlog_bytes = 1 << 20;
  RunningServer server({}, config);
  HttpProbe slow(server.port(), 4096);
  // 8 choices of 2000 tokens at 600 bytes a chunk: 10 MB, more than all buffers together.
  slow.SendRequest("POST", "/v1/completions",
                   R"({"prompt": "ab", "stream": true, "ignore_eos": true, "n": 8,
                       "logprobs": 5, "max_tokens": 2000})");
  ASSERT_TRUE(slow.WaitFor("data: "));
  ASSERT_TRUE(server.WaitUntilIdle());
  EXPECT_EQ(server.Metric("http_slow_readers_total"), 1);
  EXPECT_EQ(server.engine().metrics().request_success_total[2].value(), 1u) << "aborted";
  EXPECT_FALSE(slow.Receive().complete) << "the cut is visible";
}

TEST(HttpServer, QueueOverflow) {
  ToyOptions toy;
  toy.step_time = milliseconds(20);
  toy.max_waiting = 1;
  toy.max_num_seqs = 1;
  RunningServer server(toy);
  HttpProbe running(server.port());
  running.SendRequest("POST", "/v1/completions", StreamBody(100));
  ASSERT_TRUE(running.WaitFor("data: "));
  HttpProbe waiting(server.port());
  waiting.SendRequest("POST", "/v1/completions", StreamBody(1));
  while (server.engine().Stats().num_waiting == 0) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  const ProbeResponse refused = Fetch(server.port(), "POST", "/v1/completions", StreamBody(1));
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  EXPECT_THAT(refused.body, HasSubstr("rate_limit_error"));
  EXPECT_TRUE(running.WaitFor("[DONE]"));
  EXPECT_TRUE(waiting.WaitFor("[DONE]"));
}

TEST(HttpServer, AThousandSlowConnectionsWhileOthersStream) {
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  RaiseDescriptorLimit();
  getrlimit(RLIMIT_NOFILE, &limit);
  const int num_slow = std::min<int>(1000, (static_cast<int>(limit.rlim_cur) - 200) / 2);
  ASSERT_GE(num_slow, 100) << "too few descriptors to tell anything";
  ToyOptions toy;
  toy.step_time = milliseconds(1);
  RunningServer server(toy);
  std::deque<HttpProbe> slow;
  for (int i = 0; i < num_slow; ++i) {
    slow.emplace_back(server.port());
  }
  std::atomic<bool> stop{false};
  std::thread drip([&] {
    const std::string head = "POST /v1/completions HTTP/1.1\r\nX: " + std::string(5000, 'a');
    for (size_t i = 0; !stop; i = (i + 1) % head.size()) {
      for (HttpProbe& probe : slow) {
        probe.Send(head.substr(i, 1));
      }
      // Five times as fast as the slow clients that are meant: the test is short. Faster, and
      // the load would be the kernel's and a sanitizer's more than the connections'.
      std::this_thread::sleep_for(milliseconds(200));
    }
  });
  std::vector<std::thread> clients;
  std::atomic<int> good{0};
  for (int i = 0; i < 32; ++i) {
    clients.emplace_back([&] {
      HttpProbe probe(server.port());
      probe.SendRequest("POST", "/v1/completions", StreamBody(200));
      const ProbeResponse response = probe.Receive();
      good += response.complete && CountEvents(response.body) == 201 ? 1 : 0;
    });
  }
  for (std::thread& client : clients) {
    client.join();
  }
  EXPECT_EQ(good, 32);
  EXPECT_GE(server.Metric("http_connections"), num_slow);
  stop = true;
  drip.join();
}

TEST(HttpServer, ShutdownLetsAnswersEnd) {
  ToyOptions toy;
  toy.step_time = milliseconds(2);
  RunningServer server(toy);
  HttpProbe streaming(server.port());
  HttpProbe idle(server.port());
  streaming.SendRequest("POST", "/v1/completions", StreamBody(300));
  ASSERT_TRUE(streaming.WaitFor("data: "));
  server.Stop();
  const ProbeResponse response = streaming.Receive();
  EXPECT_TRUE(response.complete);
  EXPECT_EQ(CountEvents(response.body), 301u);
  EXPECT_TRUE(idle.WaitForClose(seconds(1)));
  EXPECT_THROW(HttpProbe(server.port()), std::runtime_error);
}

TEST(HttpServer, ShutdownEndsCleanlyWhatTakesTooLong) {
  ToyOptions toy;
  toy.step_time = milliseconds(20);
  ServerConfig config;
  config.shutdown_grace = milliseconds(100);
  RunningServer server(toy, config);
  HttpProbe streaming(server.port());
  HttpProbe whole(server.port());
  streaming.SendRequest("POST", "/v1/completions", StreamBody(2000));
  std::string body = StreamBody(2000);
  body.replace(body.find("true"), 4, "false");
  whole.SendRequest("POST", "/v1/completions", body);
  ASSERT_TRUE(streaming.WaitFor("data: "));
  while (server.engine().Stats().num_running < 2) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  server.Stop();
  const ProbeResponse response = streaming.Receive();
  EXPECT_TRUE(response.complete) << "the stream has a proper end";
  EXPECT_THAT(response.body, HasSubstr("shutting_down"));
  EXPECT_EQ(whole.Receive().status, 503);
}

TEST(HttpServer, EngineThatGoesOnAfterTheServer) {
  ToyOptions toy;
  toy.step_time = milliseconds(5);
  testing::ToyModel model(toy);
  {
    ServerConfig config;
    config.port = 0;
    config.handle_signals = false;
    config.shutdown_grace = milliseconds(0);
    HttpServer server(config);
    server.Attach(model.Serve());
    std::thread thread([&] { server.Run(); });
    HttpProbe probe(server.port());
    probe.SendRequest("POST", "/v1/completions", StreamBody(2000));
    ASSERT_TRUE(probe.WaitFor("data: "));
    server.Stop();
    thread.join();
  }
  std::this_thread::sleep_for(milliseconds(50));
}

TEST(HttpServer, PortInUse) {
  RunningServer server;
  ServerConfig config;
  config.port = server.port();
  try {
    HttpServer second(config);
    ADD_FAILURE() << "two servers on one port";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_EQ(std::string(error.what()), "cannot listen on 127.0.0.1 port " +
                                             std::to_string(server.port()) +
                                             ": Address already in use");
  }
  config.port = 0;
  config.host = "no.such.host.invalid";
  EXPECT_THROW(HttpServer{config}, Error);
}

TEST(HttpServer, SwitchesPrecisionWhileItRuns) {
  ToyOptions toy;
  toy.step_time = milliseconds(1);
  RunningServer server(toy);
  HttpProbe streaming(server.port());
  std::string body = StreamBody(1000);
  body.insert(1, R"("stream_options": {"include_usage": true}, )");
  ASSERT_EQ(Fetch(server.port(), "PUT", "/v1/precision", R"({"mode": "fp16"})").status, 200);
  streaming.SendRequest("POST", "/v1/completions", body);
  ASSERT_TRUE(streaming.WaitFor("data: "));
  ASSERT_EQ(Fetch(server.port(), "PUT", "/v1/precision", R"({"mode": "fp8"})").status, 200);
  const ProbeResponse response = streaming.Receive();
  EXPECT_THAT(response.body, HasSubstr("\"completion\":{\"exact\":"));
  EXPECT_THAT(response.body, HasSubstr(",\"fp8\":"));
  EXPECT_EQ(server.Metric("precision_mode"), 1);
}

TEST(HttpServer, AccessLog) {
  RunningServer server;
  Fetch(server.port(), "POST", "/v1/completions", R"({"prompt": "ab", "max_tokens": 3})");
  Fetch(server.port(), "GET", "/a%20\"b");
  server.Stop();
  const std::vector<AccessRecord> records = server.records();
  ASSERT_EQ(records.size(), 2u);
  const std::string line = FormatAccessRecord(records[0]);
  EXPECT_THAT(line, HasSubstr("method=POST path=/v1/completions status=200"));
  EXPECT_THAT(line, HasSubstr("prompt_tokens=2 completion_tokens="));
  EXPECT_THAT(FormatAccessRecord(records[1]), HasSubstr("path=\"/a \\\"b\" status=404"));
}

}  // namespace
}  // namespace dualfp
