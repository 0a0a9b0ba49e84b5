#include "dualfp/server/testing/http_probe.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <stdexcept>

namespace dualfp::testing {
namespace {

using SteadyClock = std::chrono::steady_clock;

// Moves what is complete of a chunked body to *body; true at its end.
bool TakeChunks(std::string_view text, std::string* body) {
  while (true) {
    const size_t line = text.find("\r\n");
    if (line == std::string_view::npos) {
      return false;
    }
    const size_t size = std::stoul(std::string(text.substr(0, line)), nullptr, 16);
    if (text.size() < line + 2 + size + 2) {
      return false;
    }
    if (size == 0) {
      return true;
    }
    *body += text.substr(line + 2, size);
    text.remove_prefix(line + 2 + size + 2);
  }
}

// What of a response has come.
ProbeResponse ParseResponse(std::string_view text) {
  ProbeResponse response;
  size_t head_end = text.find("\r\n\r\n");
  while (head_end != std::string_view::npos && text.starts_with("HTTP/1.1 1")) {
    text.remove_prefix(head_end + 4);  // not the answer yet
    head_end = text.find("\r\n\r\n");
  }
  if (head_end == std::string_view::npos) {
    return response;
  }
  std::string_view head = text.substr(0, head_end);
  response.status = std::stoi(std::string(head.substr(9, 3)));
  for (size_t at = head.find("\r\n"); at != std::string_view::npos; at = head.find("\r\n")) {
    head.remove_prefix(at + 2);
    const std::string_view line = head.substr(0, head.find("\r\n"));
    const size_t colon = line.find(": ");
    std::string name(line.substr(0, colon));
    std::transform(name.begin(), name.end(), name.begin(), [](char c) { return std::tolower(c); });
    response.headers[name] = std::string(line.substr(colon + 2));
  }
  const std::string_view rest = text.substr(head_end + 4);
  if (response.headers.count("content-length") > 0) {
    const size_t length = std::stoul(response.headers["content-length"]);
    response.body = std::string(rest.substr(0, length));
    response.complete = rest.size() >= length;
  } else if (response.headers.count("transfer-encoding") > 0) {
    response.complete = TakeChunks(rest, &response.body);
  } else {
    response.body = std::string(rest);
  }
  return response;
}

}  // namespace

HttpProbe::HttpProbe(uint16_t port, int receive_buffer) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (receive_buffer > 0) {
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd_ < 0 || connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    if (fd_ >= 0) {
      close(fd_);
    }
    throw std::runtime_error("cannot connect");
  }
}

HttpProbe::~HttpProbe() {
  if (fd_ >= 0) {
    close(fd_);
  }
}

void HttpProbe::Abort() {
  const linger reset{1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
  close(fd_);
  fd_ = -1;
}

void HttpProbe::EndSending() { shutdown(fd_, SHUT_WR); }

bool HttpProbe::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count <= 0) {
      return false;
    }
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return true;
}

bool HttpProbe::SendRequest(std::string_view method, std::string_view path, std::string_view body,
                            std::string_view extra_headers) {
  std::string request;
  request.append(method).append(" ").append(path).append(" HTTP/1.1\r\nHost: test\r\n");
  request.append(extra_headers);
  if (!body.empty() || method == "POST" || method == "PUT") {
    request += "Content-Type: application/json\r\n";
    request += "Content-Length: " + std::to_string(body.size()) + "\r\n";
  }
  request.append("\r\n").append(body);
  return Send(request);
}

bool HttpProbe::ReadMore(SteadyClock::time_point deadline) {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(deadline - SteadyClock::now());
  pollfd poll_fd{fd_, POLLIN, 0};
  if (left.count() <= 0 || poll(&poll_fd, 1, static_cast<int>(left.count())) <= 0) {
    throw std::runtime_error("the server neither answered nor closed in time");
  }
  char buffer[65536];
  const ssize_t count = recv(fd_, buffer, sizeof(buffer), 0);
  if (count > 0) {
    received_.append(buffer, static_cast<size_t>(count));
  }
  return count > 0;
}

ProbeResponse HttpProbe::Receive(std::chrono::seconds timeout) {
  const auto deadline = SteadyClock::now() + timeout;
  ProbeResponse response = ParseResponse(received_);
  while (!response.complete && ReadMore(deadline)) {
    response = ParseResponse(received_);
  }
  received_.clear();
  return response;
}

bool HttpProbe::WaitFor(std::string_view text, std::chrono::seconds timeout) {
  const auto deadline = SteadyClock::now() + timeout;
  while (received_.find(text) == std::string::npos) {
    if (!ReadMore(deadline)) {
      return false;
    }
  }
  return true;
}

bool HttpProbe::WaitForClose(std::chrono::seconds timeout) {
  const auto deadline = SteadyClock::now() + timeout;
  try {
    while (ReadMore(deadline)) {
      received_.clear();
    }
  } catch (const std::runtime_error&) {
    return false;
  }
  return true;
}

ProbeResponse Fetch(uint16_t port, std::string_view method, std::string_view path,
                    std::string_view body, std::string_view extra_headers) {
  HttpProbe probe(port);
  probe.SendRequest(method, path, body, extra_headers);
  return probe.Receive();
}

}  // namespace dualfp::testing
