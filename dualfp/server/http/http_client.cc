#include "dualfp/server/http/http_client.h"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/none.hpp>
#include <charconv>
#include <exception>
#include <tuple>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr auto kAwait = asio::experimental::as_tuple(asio::use_awaitable);
constexpr size_t kReadBytes = 64 << 10;

std::string AuthorityOf(const HttpUrl& url) {
  const bool ipv6 = url.host.find(':') != std::string::npos;
  return StrCat(ipv6 ? "[" : "", url.host, ipv6 ? "]" : "", ":", url.port);
}

std::string RequestText(const HttpUrl& server, const HttpCall& call) {
  std::string text =
      StrCat(call.method, " ", server.path, call.path, " HTTP/1.1\r\nHost: ", AuthorityOf(server),
             "\r\nUser-Agent: dualfp\r\nConnection: close\r\n");
  for (const auto& [name, value] : call.headers) {
    text += StrCat(name, ": ", value, "\r\n");
  }
  if (!call.body.empty()) {
    text += StrCat("Content-Type: application/json\r\nContent-Length: ", call.body.size(), "\r\n");
  }
  return text + "\r\n" + call.body;
}

// In a user's words.
std::string Describe(const error_code& error) {
  if (error == beast::error::timeout) {
    return "no answer in time";
  }
  if (error == http::error::end_of_stream || error == http::error::partial_message ||
      error == asio::error::eof || error == asio::error::connection_reset) {
    return "the server closed the connection before the end of its answer";
  }
  return error.message();
}

}  // namespace

std::string HttpUrl::ToString() const { return "http://" + AuthorityOf(*this) + path; }

HttpUrl ParseHttpUrl(std::string_view url) {
  const auto refuse = [url](std::string_view why) {
    Fail(ErrorCode::kInvalidArgument, "URL ", url, ": ", why);
  };
  constexpr std::string_view kScheme = "http://";
  if (url.substr(0, 8) == "https://") {
    refuse("only http:// is spoken here");
  }
  if (url.substr(0, kScheme.size()) != kScheme) {
    refuse("expected http://HOST[:PORT][/PATH]");
  }
  HttpUrl parsed;
  const std::string_view rest = url.substr(kScheme.size());
  std::string_view authority = rest.substr(0, rest.find('/'));
  parsed.path = rest.substr(authority.size());
  while (!parsed.path.empty() && parsed.path.back() == '/') {
    parsed.path.pop_back();
  }
  for (const char c : rest) {
    if (static_cast<unsigned char>(c) <= ' ' || c == '@' || c == '?' || c == '#') {
      refuse("expected http://HOST[:PORT][/PATH]");
    }
  }
  if (!authority.empty() && authority.front() == '[') {
    const size_t end = authority.find(']');
    if (end == std::string_view::npos) {
      refuse("the address has no closing bracket");
    }
    parsed.host = authority.substr(1, end - 1);
    authority.remove_prefix(end + 1);
  } else {
    parsed.host = authority.substr(0, authority.find(':'));
    authority.remove_prefix(parsed.host.size());
  }
  if (parsed.host.empty()) {
    refuse("it names no host");
  }
  if (!authority.empty()) {
    const char* end = authority.data() + authority.size();
    const auto [stop, error] = std::from_chars(authority.data() + 1, end, parsed.port);
    if (authority.front() != ':' || error != std::errc() || stop != end || parsed.port == 0) {
      refuse("the port is not a number in [1, 65535]");
    }
  }
  return parsed;
}

struct HttpClient::Impl {
  HttpUrl server;
  HttpClientOptions options;
  asio::io_context io{1};
  tcp::resolver::results_type addresses;

  asio::awaitable<void> Exchange(HttpCall call) {
    int status = 0;
    std::string error;
    co_await Converse(call, &status, &error);
    if (call.on_end) {
      call.on_end(status, error);
    }
  }

  asio::awaitable<void> Converse(HttpCall& call, int* status, std::string* failure) {
    beast::tcp_stream stream(io);
    stream.expires_after(options.connect_timeout);
    if (const auto [error, at] = co_await stream.async_connect(addresses, kAwait); error) {
      *failure = error == beast::error::timeout ? "cannot connect: no answer in time"
                                                : StrCat("cannot connect: ", error.message());
      co_return;
    }
    error_code ignored;
    stream.socket().set_option(tcp::no_delay(true), ignored);

    // A server that refuses early answers before it has read everything: its answer counts, not
    // the failed write.
    const std::string text = RequestText(server, call);
    stream.expires_after(options.silence_timeout);
    const auto [write_error, written] =
        co_await asio::async_write(stream, asio::buffer(text), kAwait);

    beast::flat_buffer buffer;
    buffer.reserve(kReadBytes);
    http::response_parser<http::string_body> parser;
    parser.body_limit(boost::none);
    while (!parser.is_done()) {
      stream.expires_after(options.silence_timeout);
      error_code error;
      if (!parser.is_header_done()) {
        std::tie(error, std::ignore) =
            co_await http::async_read_header(stream, buffer, parser, kAwait);
      } else {
        std::tie(error, std::ignore) =
            co_await http::async_read_some(stream, buffer, parser, kAwait);
      }
      const TimePoint now = Clock::now();
      if (error) {
        *failure = Describe(write_error && *status == 0 ? write_error : error);
        co_return;
      }
      if (parser.is_header_done()) {
        *status = parser.get().result_int();
      }
      std::string& body = parser.get().body();
      if (!body.empty() && call.on_body) {
        call.on_body(*status, body, now);
      }
      body.clear();
    }
  }
};

HttpClient::HttpClient(HttpUrl server, HttpClientOptions options)
    : impl_(std::make_unique<Impl>()) {
  impl_->server = std::move(server);
  impl_->options = options;
  error_code error;
  impl_->addresses = tcp::resolver(impl_->io).resolve(impl_->server.host,
                                                      std::to_string(impl_->server.port), error);
  Check(!error, ErrorCode::kIo, impl_->server.ToString(), ": ", error.message());
}

HttpClient::~HttpClient() = default;

const HttpUrl& HttpClient::server() const { return impl_->server; }

void HttpClient::Send(HttpCall call) {
  asio::co_spawn(impl_->io, impl_->Exchange(std::move(call)), [](const std::exception_ptr& error) {
    if (error) {
      std::rethrow_exception(error);
    }
  });
}

void HttpClient::At(TimePoint when, std::function<void()> action) {
  auto timer = std::make_shared<asio::steady_timer>(impl_->io, when);
  timer->async_wait([timer, action = std::move(action)](const error_code& error) {
    if (!error) {
      action();
    }
  });
}

void HttpClient::Run() {
  impl_->io.restart();
  impl_->io.run();
}

void HttpClient::Stop() { impl_->io.stop(); }

}  // namespace dualfp
