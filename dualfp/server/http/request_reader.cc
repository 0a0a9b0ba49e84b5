#include "dualfp/server/http/request_reader.h"

#include <algorithm>
#include <boost/asio/error.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/none.hpp>
#include <charconv>
#include <string>
#include <string_view>

#include "dualfp/base/check.h"
#include "dualfp/server/openai/api_error.h"
#include "dualfp/server/request_id.h"

namespace dualfp::http_internal {
namespace {

namespace http = beast::http;
using boost::system::error_code;

constexpr size_t kHeadPiece = 4 << 10;
constexpr size_t kBodyPiece = 64 << 10;

// What may frame a byte of a chunked body. Chunks of one byte take five more; signed chunks have
// extensions of about a hundred bytes, but are larger.
constexpr size_t kMaxOverheadPerByte = 8;

std::string_view View(beast::string_view text) { return {text.data(), text.size()}; }

ApiError BadRequest(std::string_view why) {
  return {400, StrCat("not an HTTP request: ", why), "", "bad_request"};
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

struct Target {
  std::optional<std::string_view> authority;  // in absolute form only
  std::string_view path;                      // without the query
};

// RFC 9112, 3.2: origin-form, absolute-form, and "*" for OPTIONS.
Target ParseTarget(std::string_view target, std::string_view method) {
  Target parsed;
  if (target == "*" && method == "OPTIONS") {
    parsed.path = target;
    return parsed;
  }
  if (!target.starts_with('/')) {
    const size_t scheme_end = target.find("://");
    const std::string_view scheme = target.substr(0, std::min(scheme_end, target.size()));
    if (scheme_end == std::string_view::npos ||
        (!beast::iequals(scheme, "http") && !beast::iequals(scheme, "https"))) {
      throw BadRequest("the target is neither a path nor an http URL");
    }
    target.remove_prefix(scheme_end + 3);
    const size_t authority_end = std::min(target.find_first_of("/?#"), target.size());
    parsed.authority = target.substr(0, authority_end);
    target.remove_prefix(authority_end);
  }
  parsed.path = target.substr(0, target.find_first_of("?#"));
  if (parsed.path.empty()) {
    parsed.path = "/";
  }
  return parsed;
}

// RFC 9112, 3.2: exactly one from HTTP/1.1 on; what an absolute target says comes before it.
std::string_view HostOf(const http::request_header<>& head, const Target& target) {
  const auto [begin, end] = head.equal_range(http::field::host);
  if (begin == end && head.version() >= 11) {
    throw BadRequest("it has no Host header");
  }
  if (begin != end && std::next(begin) != end) {
    throw BadRequest("it has more than one Host header");
  }
  const std::string_view field = begin == end ? std::string_view() : View(begin->value());
  const std::string_view host = target.authority.value_or(field);
  for (const std::string_view text : {field, host}) {
    const bool valid = std::all_of(text.begin(), text.end(), [](char c) {
      return c > ' ' && c < 0x7f &&
             std::string_view("\"#/<>?@\\^`{|},").find(c) == std::string_view::npos;
    });
    const size_t name_end = text.starts_with('[') ? text.find(']') + 1 : text.find(':');
    const std::string_view port = text.substr(std::min(name_end, text.size()));
    if (!valid || (!port.empty() && !port.starts_with(':')) ||
        port.find_first_not_of("0123456789", 1) != std::string_view::npos) {
      throw BadRequest("its Host is not a host");
    }
  }
  return host;
}

// RFC 9112, 6.1: what a message with an encoding that is not known consists of, nobody can tell.
void CheckTransferEncoding(const http::request_header<>& head) {
  const auto [begin, end] = head.equal_range(http::field::transfer_encoding);
  if (begin == end) {
    return;
  }
  if (head.version() < 11) {
    throw BadRequest("HTTP/1.0 has no Transfer-Encoding");
  }
  if (std::next(begin) != end) {
    throw BadRequest("it has more than one Transfer-Encoding");
  }
  if (!beast::iequals(begin->value(), "chunked")) {
    throw ApiError(501, "the only Transfer-Encoding here is chunked", "", "unsupported_encoding");
  }
}

bool IsProtocolError(const error_code& error) {
  static const auto& category = http::make_error_code(http::error::bad_method).category();
  return error && error.category() == category;
}

}  // namespace

asio::awaitable<bool> RequestReader::Receive(size_t max_bytes) {
  const auto [error, bytes] = co_await transport_->ReadSome(buffer_.prepare(max_bytes));
  buffer_.commit(bytes);
  ended_in_order_ = error == asio::error::eof;
  co_return !error;
}

// RFC 9112, 2.2: some clients end a body with a line feed that belongs to nothing. True when a
// request may begin at what is left.
bool RequestReader::DropEmptyLines() {
  const auto received = [this] {
    return std::string_view(static_cast<const char*>(buffer_.data().data()), buffer_.size());
  };
  while (received().starts_with("\r\n")) {
    buffer_.consume(2);
  }
  return !received().empty() && received() != "\r";
}

RequestReader::Fed RequestReader::Feed() {
  error_code error;
  const size_t used = parser_->put(buffer_.data(), error);
  buffer_.consume(used);
  body_wire_bytes_ += used;
  if (error == http::error::header_limit) {
    throw ApiError(431,
                   StrCat("the head of a request may have ", config_->max_header_bytes, " bytes"),
                   "", "header_too_large");
  }
  if (error == http::error::body_limit) {
    throw ApiError(413,
                   StrCat("the body of a request may have ", config_->max_body_bytes, " bytes"), "",
                   "body_too_large");
  }
  if (IsProtocolError(error) && error != http::error::need_more) {
    throw BadRequest(error.message());
  }
  return error == http::error::need_more || buffer_.size() == 0 ? Fed::kWantsMore : Fed::kProgress;
}

void RequestReader::Fill(HttpRequest* request) const {
  const auto& head = parser_->get();
  const auto field = [&](http::field name) { return std::string(View(head[name])); };
  request->method = std::string(View(head.method_string()));
  const Target target = ParseTarget(View(head.target()), request->method);
  request->path = PercentDecode(target.path);
  if (const std::string& root = config_->root_path;
      !root.empty() && request->path.starts_with(root) &&
      (request->path.size() == root.size() || request->path[root.size()] == '/')) {
    request->path.erase(0, root.size());
    request->path.insert(0, request->path.empty() ? "/" : "");
  }
  request->authorization = field(http::field::authorization);
  request->content_type = field(http::field::content_type);
  request->content_encoding = field(http::field::content_encoding);
  request->origin = field(http::field::origin);
  request->requested_method = field(http::field::access_control_request_method);
  request->requested_headers = field(http::field::access_control_request_headers);
  request->requests_private_network =
      beast::iequals(head["Access-Control-Request-Private-Network"], "true");
  request->request_id = RequestIdOr(View(head["X-Request-Id"]));
  request->host = std::string(HostOf(head, target));
  CheckTransferEncoding(head);
  const std::string expect = field(http::field::expect);
  if (!expect.empty() && head.version() >= 11 && !beast::iequals(expect, "100-continue")) {
    throw ApiError(417, "the only expectation here is 100-continue", "", "expectation_failed");
  }
}

asio::awaitable<bool> RequestReader::ReadHead(HttpRequest* request) {
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(config_->max_header_bytes));
  // Checked once the head is known: who is refused for another reason is told that one.
  parser_->body_limit(boost::none);
  if (!DropEmptyLines()) {
    transport_->ExpiresAfter(config_->idle_timeout);
    bool begun = false;
    while (!begun) {
      const bool open = co_await Receive(kHeadPiece);
      if (!open) {
        co_return false;
      }
      begun = DropEmptyLines();
    }
  }
  transport_->ExpiresAfter(config_->header_timeout);
  while (!parser_->is_header_done()) {
    const Fed fed = Feed();
    if (fed == Fed::kWantsMore && !parser_->is_header_done()) {
      const bool open = co_await Receive(kHeadPiece);
      if (!open && !ended_in_order_) {
        co_return false;
      }
      if (!open) {
        throw BadRequest("it ends within its head");
      }
    }
  }
  request->arrival = Clock::now();
  Fill(request);
  co_return true;
}

// Chunk heads and trailers are nobody's data: what they take is bounded as a whole and each.
void RequestReader::CheckBodyOverhead() {
  const size_t body = parser_->get().body().size();
  if (buffer_.size() > config_->max_header_bytes ||
      body_wire_bytes_ - body > config_->max_header_bytes + kMaxOverheadPerByte * body) {
    throw BadRequest("its chunks have more around them than in them");
  }
}

asio::awaitable<bool> RequestReader::ReadBody(HttpRequest* request,
                                              std::function<void(size_t)> grow) {
  if (const auto length = parser_->content_length(); length && *length > config_->max_body_bytes) {
    throw ApiError(413,
                   StrCat("the body of a request may have ", config_->max_body_bytes, " bytes"), "",
                   "body_too_large");
  }
  parser_->body_limit(config_->max_body_bytes);
  if (!parser_->is_done() && !http_1_0() && parser_->get().count(http::field::expect) > 0) {
    static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    transport_->ExpiresAfter(config_->write_timeout);
    const Transport::Result written = co_await transport_->Write(asio::buffer(kContinue));
    if (written.error) {
      co_return false;
    }
  }
  transport_->ExpiresAfter(config_->body_timeout);
  body_wire_bytes_ = 0;
  while (!parser_->is_done()) {
    const Fed fed = Feed();
    grow(parser_->get().body().size());
    if (parser_->is_done()) {
      break;
    }
    if (fed == Fed::kWantsMore) {
      CheckBodyOverhead();
      const bool open = co_await Receive(kBodyPiece);
      if (!open && !ended_in_order_) {
        co_return false;
      }
      if (!open) {
        throw BadRequest("it ends within its body");
      }
    }
  }
  request->body = std::move(parser_->get().body());
  co_return true;
}

}  // namespace dualfp::http_internal
