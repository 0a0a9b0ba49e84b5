#include "dualfp/server/http/connection.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/status.hpp>
#include <cstring>
#include <iterator>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/server/request_id.h"

namespace dualfp::http_internal {
namespace {

using asio::ip::tcp;
using boost::system::error_code;

constexpr auto kAwait = asio::experimental::as_tuple(asio::use_awaitable);

// A piece of an answer that is written under one write_timeout.
constexpr size_t kWritePiece = 256 << 10;

// What a refused client may still send while it reads why.
constexpr size_t kMaxDiscarded = 256 << 20;
constexpr std::chrono::seconds kDiscardTime{5};
constexpr std::chrono::seconds kDiscardTimeWhileDraining{1};

// The kernel's part of a slow reader's backlog.
constexpr int kSendBufferBytes = 256 << 10;

// How often a client is looked at that has ended its side of the connection.
constexpr std::chrono::milliseconds kWatchInterval{50};

// Nothing for a Unix socket.
std::optional<tcp::endpoint> TcpEndpoint(const Transport::Protocol::endpoint& generic) {
  const int family = generic.protocol().family();
  tcp::endpoint endpoint;
  if ((family != AF_INET && family != AF_INET6) || generic.size() > endpoint.capacity()) {
    return std::nullopt;
  }
  std::memcpy(endpoint.data(), generic.data(), generic.size());
  endpoint.resize(generic.size());
  return endpoint;
}

}  // namespace

std::string Connection::ResponseHead(const HttpResponse& response) const {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nServer: dualfp\r\nX-Request-Id: {}\r\n",
                                 response.status, HttpReason(response.status), request_.request_id);
  const auto add = [&](std::string_view name, std::string_view value) {
    fmt::format_to(std::back_inserter(head), "{}: {}\r\n", name, value);
  };
  if (!response.content_type.empty()) {
    add("Content-Type", response.content_type);
    add("X-Content-Type-Options", "nosniff");
  }
  add("Cache-Control", "no-store");
  for (const auto* headers : {&headers_, &response.headers}) {
    for (const auto& [name, value] : *headers) {
      add(name, value);
    }
  }
  add("Connection", keep_alive_ ? "keep-alive" : "close");
  return head;
}

Connection::Connection(Transport::Socket socket, ServerState* server)
    : transport_(MakeTransport(std::move(socket), server->tls.get())),
      reader_(transport_.get(), &server->config),
      wake_(transport_->socket().get_executor()),
      watch_(transport_->socket().get_executor()),
      server_(server) {
  error_code ignored;
  Transport::Socket& own = transport_->socket();
  own.set_option(tcp::no_delay(true), ignored);
  own.set_option(asio::socket_base::send_buffer_size(kSendBufferBytes), ignored);
  client_ = "local";
  if (const auto remote = TcpEndpoint(own.remote_endpoint(ignored))) {
    client_ = fmt::format("{}:{}", remote->address().to_string(), remote->port());
  }
  if (const auto local = TcpEndpoint(own.local_endpoint(ignored))) {
    local_address_ = local->address().to_string();
  }
  wake_.expires_at(asio::steady_timer::time_point::max());
  place_ = server_->connections.insert(server_->connections.end(), this);
  server_->service->http_metrics().connections.Set(
      static_cast<double>(server_->connections.size()));
}

Connection::~Connection() {
  if (generation_ != nullptr) {
    generation_->Abandon();
  }
  ReleaseBody();
  SetWaiting(false);
  server_->connections.erase(place_);
  server_->service->http_metrics().connections.Set(
      static_cast<double>(server_->connections.size()));
}

void Connection::SetWaiting(bool waiting) {
  if (waiting && !waiting_place_) {
    waiting_place_ = server_->waiting.insert(server_->waiting.end(), this);
  } else if (!waiting && waiting_place_) {
    server_->waiting.erase(*waiting_place_);
    waiting_place_.reset();
  }
}

void Connection::ReleaseBody() { server_->body_bytes -= std::exchange(body_bytes_, 0); }

void Connection::Wake() { wake_.cancel(); }

void Connection::Close() {
  broken_ = true;
  SetWaiting(false);
  transport_->Close();
  Wake();
}

asio::awaitable<void> Connection::Run() {
  // Keeps this alive until the end, whatever is still pending.
  const std::shared_ptr<Connection> self = shared_from_this();
  try {
    transport_->ExpiresAfter(server_->config.header_timeout);
    SetWaiting(true);
    const Transport::Result handshake = co_await transport_->Handshake();
    bool open = !handshake.error;
    while (open) {
      open = co_await ServeOne();
    }
  } catch (const std::exception& error) {
    LogWarning(StrCat("connection ", client_, ": ", error.what()));
  }
  if (generation_ != nullptr) {
    generation_->Abandon();
    generation_.reset();
  }
  transport_->Close();
}

// Reads a request and answers it; false when it was the connection's last.
asio::awaitable<bool> Connection::ServeOne() {
  request_ = HttpRequest{};
  headers_.clear();
  ++exchange_;
  keep_alive_ = unread_body_ = streaming_ = complete_ = broken_ = client_ended_ = false;
  status_ = 0;
  bytes_written_ = 0;
  summary_.reset();

  SetWaiting(true);
  bool readable = false;
  std::optional<HttpResponse> refusal;
  try {
    readable = co_await ReadRequest();
  } catch (const ApiError& error) {
    refusal = ErrorResponse(error);
  }
  SetWaiting(false);
  if (refusal) {
    unread_body_ = true;
    if (request_.request_id.empty()) {
      request_.request_id = NewRequestId();
    }
    Send(*std::move(refusal));
    readable = true;
  }
  if (!readable) {
    co_return false;
  }
  if (complete_) {
    co_await Flush();
  } else {
    co_await Answer();
  }
  ReleaseBody();
  LogExchange();
  if (broken_) {
    co_return false;
  }
  if (unread_body_ || !keep_alive_) {
    co_await CloseGently();
    co_return false;
  }
  co_return true;
}

// False when the client is gone. Where the head suffices for an answer, that is sent.
asio::awaitable<bool> Connection::ReadRequest() {
  const bool begun = co_await reader_.ReadHead(&request_);
  if (!begun) {
    co_return false;
  }
  request_.local_address = local_address_;
  keep_alive_ = reader_.keep_alive();
  http_1_0_ = reader_.http_1_0();
  headers_ = server_->service->access().CorsHeaders(request_);
  if (std::optional<HttpResponse> refusal = server_->service->RefuseByHead(request_)) {
    unread_body_ = !reader_.complete();
    Send(*std::move(refusal));
    co_return true;
  }
  body_begin_ = Clock::now();
  co_return co_await reader_.ReadBody(&request_, [this](size_t size) { MakeRoomForBody(size); });
}

void Connection::MakeRoomForBody(size_t size) {
  const ServerConfig& config = server_->config;
  if (size <= config.inline_body_bytes) {
    return;
  }
  server_->body_bytes += size - std::exchange(body_bytes_, size);
  const TimePoint now = Clock::now();
  while (server_->body_bytes > config.max_total_body_bytes) {
    Connection* slowest = nullptr;
    for (Connection* other : server_->waiting) {
      if (other != this && other->body_bytes_ > 0 &&
          now - other->body_begin_ > config.fair_body_time &&
          (slowest == nullptr || other->body_begin_ < slowest->body_begin_)) {
        slowest = other;
      }
    }
    if (slowest == nullptr) {
      throw ApiError(503, "too many large requests at a time", "", "out_of_memory");
    }
    server_->service->http_metrics().uploads_evicted_total.Add();
    slowest->ReleaseBody();
    slowest->Close();
  }
}

// Has the request answered, watching for the client's going away meanwhile.
asio::awaitable<void> Connection::Answer() {
  Service& service = *server_->service;
  Service::Prepared prepared;
  // The log needs the head later, and nobody the body.
  std::string body = std::exchange(request_.body, {});
  HttpRequest request = request_;
  request.body = std::move(body);
  if (request.body.size() <= server_->config.inline_body_bytes &&
      request.content_encoding.empty()) {
    prepared = service.Prepare(std::move(request));
  } else {
    // Returns to this thread by itself: the coroutine awaits on its own executor.
    prepared = co_await asio::co_spawn(
        server_->workers->get_executor(),
        [&]() -> asio::awaitable<Service::Prepared> {
          co_return service.Prepare(std::move(request));
        },
        asio::use_awaitable);
  }
  ReleaseBody();
  if (auto* response = std::get_if<HttpResponse>(&prepared)) {
    Send(std::move(*response));
    co_await Flush();
    co_return;
  }
  generation_ =
      service.Start(std::move(std::get<std::unique_ptr<PreparedGeneration>>(prepared)), this);
  asio::co_spawn(
      wake_.get_executor(),
      [self = shared_from_this(), exchange = exchange_] {
        return self->WatchForDisconnect(exchange);
      },
      asio::detached);
  co_await Flush();
  if (broken_) {
    generation_->Abandon();
  }
  generation_.reset();
  // Ends the watch; nothing else is pending on the socket.
  error_code ignored;
  transport_->socket().cancel(ignored);
  watch_.cancel();
}

// Whether the client can take no answer any more. One that has ended its side may still read.
bool Connection::LooksGone() {
  pollfd state{transport_->socket().native_handle(), POLLRDHUP, 0};
  if (poll(&state, 1, 0) <= 0) {
    return false;
  }
  if (std::exchange(client_ended_, true) == false && status_ == 0 && !http_1_0_) {
    // A client that is gone answers this with a reset; others drop it (RFC 9110, 15.2.1).
    out_ += "HTTP/1.1 100 Continue\r\n\r\n";
    Wake();
  }
  return (state.revents & (POLLERR | POLLHUP | POLLNVAL)) != 0;
}

// A client that goes away while it has nothing to read is noticed only by looking.
asio::awaitable<void> Connection::WatchForDisconnect(uint64_t exchange) {
  bool readable = false;
  while (exchange == exchange_ && !complete_ && transport_->socket().is_open()) {
    if (LooksGone()) {
      if (generation_ != nullptr) {
        generation_->Abandon();
      }
      Close();
      co_return;
    }
    if (!client_ended_ && !readable) {
      // The end, or the next request, sent before the answer to this one.
      const auto [error] =
          co_await transport_->socket().async_wait(Transport::Socket::wait_read, kAwait);
      readable = true;
      if (error) {
        co_return;
      }
    } else {
      watch_.expires_after(kWatchInterval);
      co_await watch_.async_wait(kAwait);
    }
  }
}

// Writes what there is to write until the answer is complete or the client gone.
asio::awaitable<void> Connection::Flush() {
  while (!broken_) {
    if (out_.empty()) {
      if (complete_) {
        break;
      }
      co_await wake_.async_wait(kAwait);
      continue;
    }
    std::swap(writing_, out_);
    for (size_t begin = 0; begin < writing_.size() && !broken_; begin += kWritePiece) {
      const size_t size = std::min(kWritePiece, writing_.size() - begin);
      transport_->ExpiresAfter(server_->config.write_timeout);
      const Transport::Result written =
          co_await transport_->Write(asio::buffer(writing_.data() + begin, size));
      bytes_written_ += written.bytes;
      broken_ |= static_cast<bool>(written.error);
    }
    writing_.clear();
  }
  out_.clear();
}

// Closing a socket with unread input makes the kernel send a reset, which can overtake the answer.
asio::awaitable<void> Connection::CloseGently() {
  transport_->ExpiresAfter(server_->draining ? kDiscardTimeWhileDraining : kDiscardTime);
  co_await transport_->EndWriting();
  reader_.Discard();
  std::string dropped(64 << 10, '\0');
  for (size_t discarded = 0; discarded < kMaxDiscarded;) {
    const Transport::Result read = co_await transport_->ReadSome(asio::buffer(dropped));
    if (read.error) {
      break;
    }
    discarded += read.bytes;
  }
}

void Connection::Send(HttpResponse response) {
  status_ = response.status;
  keep_alive_ = keep_alive_ && !unread_body_ && !server_->draining;
  out_ += ResponseHead(response);
  fmt::format_to(std::back_inserter(out_), "Content-Length: {}\r\n\r\n", response.body.size());
  if (request_.method != "HEAD") {
    out_ += response.body;
  }
  complete_ = true;
  Wake();
}

void Connection::BeginStream() {
  status_ = 200;
  streaming_ = true;
  keep_alive_ = keep_alive_ && !http_1_0_ && !server_->draining;
  HttpResponse response;
  response.content_type = "text/event-stream; charset=utf-8";
  // Reverse proxies otherwise collect a stream before they pass it on.
  response.headers.emplace_back("X-Accel-Buffering", "no");
  out_ += ResponseHead(response);
  out_ += http_1_0_ ? "\r\n" : "Transfer-Encoding: chunked\r\n\r\n";
}

bool Connection::Write(std::string_view events) {
  if (broken_) {
    return false;
  }
  if (writing_.size() + out_.size() + events.size() > server_->config.max_stream_backlog_bytes) {
    server_->service->http_metrics().slow_readers_total.Add();
    Close();
    return false;
  }
  if (http_1_0_) {
    out_ += events;
  } else {
    fmt::format_to(std::back_inserter(out_), "{:x}\r\n", events.size());
    out_ += events;
    out_ += "\r\n";
  }
  Wake();
  return true;
}

void Connection::EndStream() {
  if (!http_1_0_) {
    out_ += "0\r\n\r\n";
  }
  complete_ = true;
  Wake();
}

void Connection::Summarize(const GenerationSummary& summary) { summary_ = summary; }

void Connection::LogExchange() {
  const bool client_left = broken_;
  server_->service->http_metrics().responses_total[std::clamp(status_ / 100, 0, 5)].Add();
  if (!server_->config.access_log) {
    return;
  }
  AccessRecord record;
  record.client = client_;
  record.method = request_.method;
  record.path = request_.path;
  record.request_id = request_.request_id;
  record.status = status_;
  record.response_bytes = bytes_written_;
  record.seconds = std::chrono::duration<double>(Clock::now() - request_.arrival).count();
  record.client_left = client_left;
  record.generation = summary_;
  server_->config.access_log(record);
}

}  // namespace dualfp::http_internal

namespace dualfp {

std::string_view HttpReason(int status) {
  // Ours, where the standard's list has none.
  const auto reason = boost::beast::http::obsolete_reason(
      boost::beast::http::int_to_status(static_cast<unsigned>(status)));
  return {reason.data(), reason.size()};
}

}  // namespace dualfp
