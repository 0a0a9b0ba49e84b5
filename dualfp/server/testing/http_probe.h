// A blocking HTTP client for tests, which can also misbehave: it sends whatever bytes it is given.

#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace dualfp::testing {

struct ProbeResponse {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // chunks joined
  bool complete = false;                       // the end was seen, as the head announced it
};

class HttpProbe {
 public:
  // Throws when nobody listens. `receive_buffer`: of the kernel, 0 for its default.
  explicit HttpProbe(uint16_t port, int receive_buffer = 0);
  ~HttpProbe();
  HttpProbe(const HttpProbe&) = delete;
  HttpProbe& operator=(const HttpProbe&) = delete;

  // False when the server has closed.
  bool Send(std::string_view bytes);
  bool SendRequest(std::string_view method, std::string_view path, std::string_view body = "",
                   std::string_view extra_headers = "");

  // Until the response is complete or the server closes; fails the wait after `timeout`.
  ProbeResponse Receive(std::chrono::seconds timeout = std::chrono::seconds(60));

  // Until `text` has come (true) or the server closes; what came is kept for Receive().
  bool WaitFor(std::string_view text, std::chrono::seconds timeout = std::chrono::seconds(60));

  // True when the server closes within `timeout`; reads and drops what it sends.
  bool WaitForClose(std::chrono::seconds timeout = std::chrono::seconds(60));

  // Ends this side of the connection; the other can still be read.
  void EndSending();

  // Sends a reset instead of the orderly end.
  void Abort();

 private:
  bool ReadMore(std::chrono::steady_clock::time_point deadline);

  int fd_ = -1;
  std::string received_;
};

// One request on a connection of its own.
ProbeResponse Fetch(uint16_t port, std::string_view method, std::string_view path,
                    std::string_view body = "", std::string_view extra_headers = "");

}  // namespace dualfp::testing
