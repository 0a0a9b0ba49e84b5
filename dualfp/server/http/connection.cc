#include "dualfp/server/http/connection.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/none.hpp>
#include <charconv>
#include <iterator>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"

namespace dualfp::http_internal {
namespace {

namespace http = beast::http;
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

std::string ResponseHead(const HttpResponse& response, bool keep_alive) {
  std::string head = fmt::format(
      "HTTP/1.1 {} {}\r\nServer: dualfp\r\nContent-Type: {}\r\nX-Content-Type-Options: nosniff\r\n"
      "Cache-Control: no-store\r\n",
      response.status, HttpReason(response.status), response.content_type);
  for (const auto& [name, value] : response.headers) {
    fmt::format_to(std::back_inserter(head), "{}: {}\r\n", name, value);
  }
  head += keep_alive ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
  return head;
}

// Broken HTTP, as opposed to a connection that ended.
bool IsProtocolError(const error_code& error) {
  static const auto& category = http::make_error_code(http::error::bad_method).category();
  return error && error.category() == category && error != http::error::end_of_stream &&
         error != http::error::partial_message;
}

// %XX in a path; what is not one stays as it is.
std::string PercentDecode(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(&text[i + 1], &text[i + 1] + 2, value, 16).ptr == &text[i + 1] + 2) {
      decoded += static_cast<char>(value);
      i += 2;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

std::string Field(const http::request_header<>& head, http::field name) {
  const auto value = head[name];
  return {value.data(), value.size()};
}

}  // namespace

Connection::Connection(asio::ip::tcp::socket socket, ServerState* server)
    : stream_(std::move(socket)), wake_(stream_.get_executor()), server_(server) {
  error_code ignored;
  stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
  stream_.socket().set_option(asio::socket_base::send_buffer_size(kSendBufferBytes), ignored);
  const auto endpoint = stream_.socket().remote_endpoint(ignored);
  if (!ignored) {
    client_ = fmt::format("{}:{}", endpoint.address().to_string(), endpoint.port());
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
  stream_.close();
  Wake();
}

asio::awaitable<void> Connection::Run() {
  // Keeps this alive until the end, whatever is still pending.
  const std::shared_ptr<Connection> self = shared_from_this();
  try {
    while (co_await ServeOne()) {
    }
  } catch (const std::exception& error) {
    LogWarning(StrCat("connection ", client_, ": ", error.what()));
  }
  if (generation_ != nullptr) {
    generation_->Abandon();
    generation_.reset();
  }
  stream_.close();
}

// Reads a request and answers it; false when it was the connection's last.
asio::awaitable<bool> Connection::ServeOne() {
  request_ = HttpRequest{};
  ++exchange_;
  keep_alive_ = unread_body_ = streaming_ = complete_ = broken_ = false;
  status_ = 0;
  bytes_written_ = 0;
  summary_.reset();

  SetWaiting(true);
  Parser parser;
  parser.header_limit(static_cast<uint32_t>(server_->config.max_header_bytes));
  // Checked once the head is known: who is refused for another reason is told that one.
  parser.body_limit(boost::none);
  ReadResult result = co_await ReadHead(parser);
  if (result == ReadResult::kRequest) {
    result = co_await ReadBody(parser);
  }
  SetWaiting(false);
  if (result == ReadResult::kClosed) {
    co_return false;
  }
  if (result == ReadResult::kRequest) {
    request_.body = std::move(parser.get().body());
    co_await Answer();
  } else {
    co_await Flush();
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

Connection::ReadResult Connection::Refuse(HttpResponse response) {
  unread_body_ = true;
  keep_alive_ = false;
  Send(std::move(response));
  return ReadResult::kAnswered;
}

asio::awaitable<Connection::ReadResult> Connection::ReadHead(Parser& parser) {
  if (buffer_.size() == 0) {
    stream_.expires_after(server_->config.idle_timeout);
    const auto [error, count] = co_await stream_.async_read_some(buffer_.prepare(4096), kAwait);
    if (error) {
      co_return ReadResult::kClosed;
    }
    buffer_.commit(count);
  }
  stream_.expires_after(server_->config.header_timeout);
  const auto [error, count] = co_await http::async_read_header(stream_, buffer_, parser, kAwait);
  request_.arrival = Clock::now();
  if (error == beast::error::timeout) {
    // The timeout has closed the socket: there is nobody to tell.
    co_return ReadResult::kClosed;
  }
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    co_return Refuse(ErrorResponse(
        {431, StrCat("the head of a request may have ", server_->config.max_header_bytes, " bytes"),
         "", "header_too_large"}));
  }
  if (IsProtocolError(error)) {
    co_return Refuse(
        ErrorResponse({400, StrCat("not an HTTP request: ", error.message()), "", "bad_request"}));
  }
  if (error) {
    co_return ReadResult::kClosed;
  }

  const auto& head = parser.get();
  request_.method = std::string(head.method_string());
  const std::string_view target(head.target().data(), head.target().size());
  request_.path = PercentDecode(target.substr(0, target.find('?')));
  request_.authorization = Field(head, http::field::authorization);
  request_.content_type = Field(head, http::field::content_type);
  keep_alive_ = head.keep_alive();
  http_1_0_ = head.version() < 11;

  if (std::optional<HttpResponse> refusal = server_->service->RefuseByHead(request_)) {
    unread_body_ = !parser.is_done();
    Send(*std::move(refusal));
    co_return ReadResult::kAnswered;
  }
  co_return ReadResult::kRequest;
}

asio::awaitable<Connection::ReadResult> Connection::ReadBody(Parser& parser) {
  const auto too_large = [&] {
    return Refuse(ErrorResponse(
        {413, StrCat("the body of a request may have ", server_->config.max_body_bytes, " bytes"),
         "", "body_too_large"}));
  };
  if (const auto length = parser.content_length();
      length && *length > server_->config.max_body_bytes) {
    co_return too_large();
  }
  parser.body_limit(server_->config.max_body_bytes);
  if (!parser.is_done() &&
      beast::iequals(Field(parser.get(), http::field::expect), "100-continue")) {
    static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    stream_.expires_after(server_->config.write_timeout);
    const auto [error, count] =
        co_await asio::async_write(stream_, asio::buffer(kContinue), kAwait);
    if (error) {
      co_return ReadResult::kClosed;
    }
  }
  stream_.expires_after(server_->config.body_timeout);
  while (!parser.is_done()) {
    const auto [error, count] = co_await http::async_read_some(stream_, buffer_, parser, kAwait);
    if (error == http::error::body_limit) {
      co_return too_large();
    }
    if (IsProtocolError(error)) {
      co_return Refuse(ErrorResponse(
          {400, StrCat("not an HTTP request: ", error.message()), "", "bad_request"}));
    }
    if (error) {
      co_return ReadResult::kClosed;
    }
    const size_t size = parser.get().body().size();
    server_->body_bytes += size - body_bytes_;
    body_bytes_ = size;
    if (server_->body_bytes > server_->config.max_total_body_bytes) {
      co_return Refuse(
          ErrorResponse({503, "too many large requests at a time", "", "out_of_memory"}));
    }
  }
  co_return ReadResult::kRequest;
}

// Has the request answered, watching for the client's going away meanwhile.
asio::awaitable<void> Connection::Answer() {
  Service& service = *server_->service;
  Service::Prepared prepared;
  if (request_.body.size() <= server_->config.inline_body_bytes) {
    prepared = service.Prepare(request_);
  } else {
    // Returns to this thread by itself: the coroutine awaits on its own executor.
    prepared = co_await asio::co_spawn(
        server_->workers->get_executor(),
        [&]() -> asio::awaitable<Service::Prepared> { co_return service.Prepare(request_); },
        asio::use_awaitable);
  }
  request_.body = std::string();
  ReleaseBody();
  if (auto* response = std::get_if<HttpResponse>(&prepared)) {
    Send(std::move(*response));
    co_await Flush();
    co_return;
  }
  generation_ =
      service.Start(std::move(std::get<std::unique_ptr<PreparedGeneration>>(prepared)), this);
  asio::co_spawn(
      stream_.get_executor(),
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
  stream_.socket().cancel(ignored);
}

// A client that goes away while it has nothing to read is noticed only by looking.
asio::awaitable<void> Connection::WatchForDisconnect(uint64_t exchange) {
  while (exchange == exchange_ && !complete_) {
    const auto [error] = co_await stream_.socket().async_wait(asio::socket_base::wait_read, kAwait);
    if (error || exchange != exchange_ || !stream_.socket().is_open()) {
      co_return;
    }
    char byte = 0;
    const ssize_t count = recv(stream_.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (count > 0) {
      // The next request, sent before the answer to this one: watching it would spin.
      co_return;
    }
    if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
      if (generation_ != nullptr) {
        generation_->Abandon();
      }
      Close();
      co_return;
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
      stream_.expires_after(server_->config.write_timeout);
      const auto [error, count] =
          co_await asio::async_write(stream_, asio::buffer(writing_.data() + begin, size), kAwait);
      bytes_written_ += count;
      broken_ |= static_cast<bool>(error);
    }
    writing_.clear();
  }
  out_.clear();
}

// Closing a socket with unread input makes the kernel send a reset, which can overtake the answer.
asio::awaitable<void> Connection::CloseGently() {
  error_code ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  buffer_.consume(buffer_.size());
  stream_.expires_after(server_->draining ? kDiscardTimeWhileDraining : kDiscardTime);
  for (size_t discarded = 0; discarded < kMaxDiscarded;) {
    const auto [error, count] = co_await stream_.async_read_some(buffer_.prepare(64 << 10), kAwait);
    if (error) {
      break;
    }
    discarded += count;
  }
}

void Connection::Send(HttpResponse response) {
  status_ = response.status;
  keep_alive_ = keep_alive_ && !unread_body_ && !server_->draining;
  out_ = ResponseHead(response, keep_alive_);
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
  out_ = ResponseHead(response, keep_alive_);
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
