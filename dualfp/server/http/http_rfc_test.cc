// What RFC 9110 and 9112 ask of a server, byte by byte, and what bytes without end come to.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <deque>
#include <thread>

#include "dualfp/server/service.h"
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

constexpr std::string_view kBody = R"({"prompt": "a", "max_tokens": 1})";

std::string Gzip(std::string_view text) {
  z_stream state{};
  EXPECT_EQ(deflateInit2(&state, 9, Z_DEFLATED, 16 + 15, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(deflateBound(&state, text.size()), '\0');
  std::string copy(text);
  state.next_in = reinterpret_cast<Bytef*>(copy.data());
  state.avail_in = static_cast<uInt>(copy.size());
  state.next_out = reinterpret_cast<Bytef*>(packed.data());
  state.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&state, Z_FINISH), Z_STREAM_END);
  packed.resize(packed.size() - state.avail_out);
  deflateEnd(&state);
  return packed;
}

int StatusOf(const RunningServer& server, std::string_view bytes) {
  HttpProbe probe(server.port());
  probe.Send(bytes);
  return probe.Receive().status;
}

std::string Chunked(std::string_view chunks) {
  return PostHead() + "Transfer-Encoding: chunked\r\n\r\n" + std::string(chunks);
}

// The body in one chunk, then the last chunk up to its size.
std::string WholeInChunks() {
  std::string chunks = "20;name=\"value\"\r\n";
  EXPECT_EQ(kBody.size(), 0x20u);
  return chunks.append(kBody).append("\r\n0");
}

TEST(HttpRfc, Targets) {
  RunningServer server;
  const auto status = [&](const std::string& target) {
    return StatusOf(server, "GET " + target + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
  };
  EXPECT_EQ(status("http://localhost/v1/models"), 200);
  EXPECT_EQ(status("HTTP://127.0.0.1:1/v1/models?a=b"), 200);
  EXPECT_EQ(status("https://localhost"), 200) << "an empty path is /";
  EXPECT_EQ(status("http://localhost?x"), 200);
  EXPECT_EQ(status("/v1/%6dodels"), 200);
  EXPECT_EQ(status("/v1/models/"), 200);
  for (const char* gone : {"//v1/models", "/v1/completions/", "/v1/models/gone", "/health/"}) {
    EXPECT_EQ(status(gone), 404) << gone;
  }
  for (const char* bad : {"ftp://localhost/", "v1/models", "localhost:80", "*", "http://a b/"}) {
    EXPECT_EQ(status(bad), 400) << bad;
  }
  EXPECT_EQ(StatusOf(server, "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"), 200);
}

TEST(HttpRfc, Host) {
  RunningServer server;
  const auto status = [&](const std::string& target, const std::string& headers) {
    return StatusOf(server, "GET " + target + " HTTP/1.1\r\n" + headers + "\r\n");
  };
  EXPECT_EQ(status("/health", ""), 400);
  EXPECT_EQ(status("/health", "Host: a\r\nHost: a\r\n"), 400);
  EXPECT_EQ(status("/health", "Host: a/b\r\n"), 400);
  EXPECT_EQ(status("/health", "Host: a b\r\n"), 400);
  EXPECT_EQ(status("/health", "Host: a:b\r\n"), 400);
  EXPECT_EQ(status("/health", "Host: [::1\r\n"), 400);
  EXPECT_EQ(status("/health", "Host: localhost:\r\n"), 200);
  EXPECT_EQ(status("/health", "Host: [::1]:80\r\n"), 200);
  EXPECT_EQ(status("/health", "Host: [::1]x:80\r\n"), 400);
  EXPECT_EQ(status("/health", "Host: evil.example\r\n"), 403);
  EXPECT_EQ(status("http://evil.example/health", "Host: localhost\r\n"), 403) << "the target's";
  EXPECT_EQ(status("http://localhost/health", "Host: evil.example\r\n"), 200);
  EXPECT_EQ(StatusOf(server, "GET /health HTTP/1.0\r\n\r\n"), 200);
}

TEST(HttpRfc, EmptyLinesBeforeARequest) {
  RunningServer server;
  HttpProbe probe(server.port());
  ASSERT_TRUE(probe.Send("\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n\r"));
  EXPECT_EQ(probe.Receive().status, 200);
  ASSERT_TRUE(probe.Send("\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_EQ(probe.Receive().status, 200);
}

TEST(HttpRfc, TransferEncodings) {
  RunningServer server;
  const std::string smuggled = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
  for (const char* encoding : {"gzip", "identity", "gzip, chunked", "chunked, gzip", "xchunked",
                               "chunked;q=1", "\"chunked\""}) {
    HttpProbe probe(server.port());
    ASSERT_TRUE(probe.Send(PostHead() + "Transfer-Encoding: " + encoding + "\r\n\r\n" + smuggled));
    const ProbeResponse response = probe.Receive();
    EXPECT_THAT(response.status, ::testing::AnyOf(400, 501)) << encoding;
    EXPECT_EQ(response.headers.at("connection"), "close");
    EXPECT_FALSE(probe.WaitFor("\"version\"")) << "a body is no request";
  }
  EXPECT_EQ(
      StatusOf(server, PostHead() + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" +
                           WholeInChunks() + "\r\n\r\n"),
      400);
  EXPECT_EQ(StatusOf(server,
                     "POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
                     "Transfer-Encoding: chunked\r\n\r\n" +
                         WholeInChunks() + "\r\n\r\n"),
            400);
  EXPECT_EQ(StatusOf(server, Chunked(WholeInChunks() + "\r\nX-Trailer: 1\r\n\r\n")), 200);
  EXPECT_EQ(StatusOf(server, PostHead() + "Expect: a miracle\r\nContent-Length: 4\r\n\r\n"), 417);
}

TEST(HttpRfc, ChunksWithoutEnd) {
  RunningServer server;
  const std::string piece(64 << 10, '0');
  for (const std::string& begin :
       {std::string("5;ext="), std::string("0"),
        WholeInChunks() + "\r\nX-Trailer: ", WholeInChunks() + ";ext="}) {
    HttpProbe probe(server.port());
    probe.Send(Chunked(begin));
    for (int i = 0; i < 256 && probe.Send(piece); ++i) {
    }
    EXPECT_EQ(probe.Receive().status, 400) << begin;
  }
  // Many that are bounded each: a byte a chunk is allowed, a kilobyte around each byte is not.
  std::string bytes;
  for (const char c : kBody) {
    bytes += std::string("1\r\n") + c + "\r\n";
  }
  EXPECT_EQ(StatusOf(server, Chunked(bytes + "0\r\n\r\n")), 200);
  std::string wrapped;
  for (int i = 0; i < 1000; ++i) {
    wrapped += "1;" + std::string(1000, 'a') + "\r\n \r\n";
  }
  EXPECT_EQ(StatusOf(server, Chunked(wrapped)), 400);
  EXPECT_EQ(StatusOf(server, Chunked("ffffffffffffffffff\r\n")), 400);
  EXPECT_EQ(StatusOf(server, Chunked("ffffffffffffffff\r\n")), 413);
}

TEST(HttpRfc, HalfClosedClientsGetTheirAnswer) {
  ToyOptions toy;
  toy.step_time = milliseconds(5);
  RunningServer server(toy);
  for (const bool stream : {true, false}) {
    HttpProbe probe(server.port());
    std::string body = StreamBody(40);
    if (!stream) {
      body.replace(body.find("true"), 4, "false");
    }
    ASSERT_TRUE(probe.SendRequest("POST", "/v1/completions", body));
    probe.EndSending();
    EXPECT_TRUE(probe.WaitFor(R"("finish_reason":"length")"));
    EXPECT_TRUE(probe.WaitForClose());
  }
  EXPECT_EQ(server.engine().metrics().request_success_total[2].value(), 0u) << "none aborted";
  // What is cut off is answered too.
  HttpProbe cut(server.port());
  ASSERT_TRUE(cut.Send(PostHead() + "Content-Length: 100\r\n\r\n{"));
  cut.EndSending();
  EXPECT_EQ(cut.Receive().status, 400);
}

TEST(HttpRfc, StalledUploadsMakeRoom) {
  ServerConfig config;
  config.max_total_body_bytes = 3 << 20;
  config.fair_body_time = milliseconds(300);
  RunningServer server({}, config);
  std::deque<HttpProbe> stalled;
  const std::string piece(1 << 20, ' ');
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(stalled.emplace_back(server.port())
                    .Send(PostHead() + "Content-Length: 2000000\r\n\r\n" + piece));
  }
  EXPECT_EQ(Fetch(server.port(), "POST", "/v1/completions", kBody).status, 200)
      << "small ones are always taken";
  std::this_thread::sleep_for(2 * config.fair_body_time);
  const std::string large = std::string(kBody) + piece;
  EXPECT_EQ(Fetch(server.port(), "POST", "/v1/completions", large).status, 200);
  EXPECT_TRUE(stalled.front().WaitForClose(seconds(10)));
  EXPECT_GE(server.Metric("http_uploads_evicted_total"), 1);
}

TEST(HttpRfc, CompressedBodies) {
  ServerConfig config;
  config.max_body_bytes = 1 << 20;
  RunningServer server({}, config);
  const std::string packed = Gzip(kBody);
  const auto ask = [&](const std::string& body, const std::string& coding) {
    return Fetch(server.port(), "POST", "/v1/completions", body,
                 "Content-Encoding: " + coding + "\r\n");
  };
  EXPECT_EQ(ask(packed, "gzip").status, 200);
  EXPECT_EQ(ask(packed.substr(0, 20), "gzip").status, 400);
  const ProbeResponse unknown = ask(packed, "br");
  EXPECT_EQ(unknown.status, 415);
  EXPECT_EQ(unknown.headers.at("accept-encoding"), "gzip, deflate");
  EXPECT_EQ(ask(Gzip(std::string(2 << 20, ' ')), "gzip").status, 413) << "2 kB that are 2 MB";
}

TEST(HttpRfc, OptionsAndOrigins) {
  ServerConfig config;
  config.api_keys = {"k"};
  config.allowed_origins = {"*"};
  RunningServer server({}, config);
  const std::string ask =
      "Origin: http://localhost:3000\r\nAccess-Control-Request-Method: POST\r\n"
      "Access-Control-Request-Headers: authorization,content-type\r\n";
  for (const Service::Route& route : Service::Routes()) {
    const ProbeResponse leave = Fetch(server.port(), "OPTIONS", route.path, "", ask);
    EXPECT_EQ(leave.status, 200) << route.path;
    EXPECT_EQ(leave.headers.at("access-control-allow-origin"), "*");
    EXPECT_EQ(leave.headers.at("access-control-allow-headers"), "authorization,content-type");
    EXPECT_THAT(leave.headers.at("access-control-allow-methods"), HasSubstr(route.methods));
    EXPECT_THAT(leave.headers.at("allow"), HasSubstr("OPTIONS"));
  }
  const ProbeResponse models =
      Fetch(server.port(), "GET", "/v1/models", "", "Origin: null\r\nAuthorization: bearer k\r\n");
  EXPECT_EQ(models.status, 200);
  EXPECT_EQ(models.headers.at("access-control-allow-origin"), "*");
  const ProbeResponse refused = Fetch(server.port(), "GET", "/v1/models", "", "Origin: null\r\n");
  EXPECT_EQ(refused.status, 401);
  EXPECT_EQ(refused.headers.at("access-control-allow-origin"), "*") << "errors are answers too";
  // And a stream.
  HttpProbe stream(server.port());
  stream.SendRequest("POST", "/v1/completions", StreamBody(2),
                     "Origin: null\r\nAuthorization: Bearer k\r\n");
  EXPECT_EQ(stream.Receive().headers.at("access-control-allow-origin"), "*");

  RunningServer closed;
  EXPECT_EQ(Fetch(closed.port(), "OPTIONS", "/v1/models", "", ask)
                .headers.count("access-control-allow-origin"),
            0u);
}

TEST(HttpRfc, OnlyJsonIsJson) {
  RunningServer server;
  const auto status = [&](const std::string& headers) {
    return StatusOf(server, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n" + headers +
                                "Content-Length: 32\r\n\r\n" + std::string(kBody));
  };
  EXPECT_EQ(status("Content-Type: application/json\r\n"), 200);
  EXPECT_EQ(status("Content-Type: Application/JSON; charset=utf-8\r\n"), 200);
  // What a page of another site can send without asking for leave.
  EXPECT_EQ(status(""), 415);
  EXPECT_EQ(status("Content-Type: text/plain\r\n"), 415);
  EXPECT_EQ(status("Content-Type: text/plain; application/json\r\n"), 415);
}

TEST(HttpRfc, RequestIds) {
  RunningServer server;
  const auto id = [&](const std::string& headers) {
    return Fetch(server.port(), "GET", "/health", "", headers).headers.at("x-request-id");
  };
  EXPECT_EQ(id("X-Request-Id: abc-123\r\n"), "abc-123");
  EXPECT_EQ(id("").size(), 32u);
  EXPECT_NE(id(""), id(""));
  EXPECT_EQ(id("X-Request-Id: " + std::string(129, 'a') + "\r\n").size(), 32u);
  EXPECT_EQ(id("X-Request-Id: \xc2\x9b\r\n").size(), 32u);
  HttpProbe broken(server.port());
  broken.Send("nonsense\r\n\r\n");
  EXPECT_EQ(broken.Receive().headers.at("x-request-id").size(), 32u);
  server.Stop();
  EXPECT_THAT(FormatAccessRecord(server.records().front()), HasSubstr(" request_id=abc-123"));
}

TEST(HttpRfc, LogsKeepTheirLines) {
  // A new line, C1's (U+0085), a terminal's escape (U+009B), and what turns the writing (U+202E).
  EXPECT_EQ(EscapeForLog("a\xc2\x85\xc2\x9b\xe2\x80\xae\xef\xbb\xbf\xf3\xa0\x81\x81\x7f\n日"),
            "a\\u0085\\u009b\\u202e\\ufeff\\U000e0041\\u007f\\u000a日");
  EXPECT_EQ(EscapeForLog("\x9b\xff"), "\xef\xbf\xbd\xef\xbf\xbd");
  AccessRecord record;
  record.path = "/\xe2\x80\xae\xc2\x9b";
  EXPECT_THAT(FormatAccessRecord(record), HasSubstr("path=\"/\\u202e\\u009b\""));
}

}  // namespace
}  // namespace dualfp
