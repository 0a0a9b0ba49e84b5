// One HTTP exchange as the handlers see it: no sockets, no Boost.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dualfp/engine/request.h"

namespace dualfp {

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // without the query, percent-decoded
  std::string host;    // of an absolute target, else of the Host header: "name:port"
  std::string authorization;
  std::string content_type;
  std::string content_encoding;
  std::string request_id;  // the client's X-Request-Id, or one made here

  // What a browser says about the page that asks; empty from anybody else.
  std::string origin;
  std::string requested_method;  // before a request that needs leave: Access-Control-Request-*
  std::string requested_headers;
  bool requests_private_network = false;

  std::string local_address;  // where the client connected to; empty for a Unix socket
  std::string body;
  TimePoint arrival = Clock::now();  // when its head was complete
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";  // empty: no body
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;  // beyond the usual
};

// What the access log says about a request that generated text. Seconds; negative: never.
struct GenerationSummary {
  std::string id;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  double ttft_seconds = -1.0;
  std::string finish_reason;
};

// Where a handler puts its answer: either Send() once, or BeginStream(), Write() ..., EndStream().
// All on the server's thread.
class ResponseSink {
 public:
  virtual ~ResponseSink() = default;

  virtual void Send(HttpResponse response) = 0;

  // Sends status 200 and the head of an event stream.
  virtual void BeginStream() = 0;
  // False when the client reads so slowly that its buffer is full: the connection is then closed,
  // and the sink must not be used again.
  virtual bool Write(std::string_view events) = 0;
  virtual void EndStream() = 0;

  // Called before the answer is complete.
  virtual void Summarize(const GenerationSummary& summary) = 0;
};

// "OK", "Not Found", ...
std::string_view HttpReason(int status);

}  // namespace dualfp
