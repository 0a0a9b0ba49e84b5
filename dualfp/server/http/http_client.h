// An HTTP client for thousands of requests at a time on one thread: what a load generator needs.
//
// Everything happens inside Run(), on the caller's thread: handlers may call Send(), At() and
// Stop(). Each request has a connection of its own. Plain http:// only.

#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dualfp/engine/request.h"

namespace dualfp {

struct HttpUrl {
  std::string host;  // an IPv6 address without its brackets
  uint16_t port = 80;
  std::string path;  // without a slash at the end; empty for the root

  std::string ToString() const;  // "http://host:port/path"
};

// Throws kInvalidArgument for anything but http://HOST[:PORT][/PATH].
HttpUrl ParseHttpUrl(std::string_view url);

struct HttpCall {
  std::string method = "GET";
  std::string path;  // below the server's URL: "/v1/models"
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;

  // Called with each piece of the body as it comes. Optional.
  std::function<void(int status, std::string_view piece, TimePoint at)> on_body;

  // Called once, at the end. `error` is empty when the answer is complete, whatever its status; it
  // says why there is none, or no end of it, otherwise. Status 0: not even a head came.
  std::function<void(int status, const std::string& error)> on_end;
};

struct HttpClientOptions {
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::milliseconds silence_timeout{300'000};  // without a byte
};

class HttpClient {
 public:
  // Looks the host's name up. Throws kIo when it has no address.
  explicit HttpClient(HttpUrl server, HttpClientOptions options = {});
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  const HttpUrl& server() const;

  void Send(HttpCall call);
  void At(TimePoint when, std::function<void()> action);

  // Until there is neither a request nor an action left, or Stop(). An exception of a handler
  // leaves through here.
  void Run();

  // Drops what is left, without on_end.
  void Stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dualfp
