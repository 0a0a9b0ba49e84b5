// Reads requests off a connection as RFC 9112 says, each within limits of time and size. Internal
// to http/.

#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <functional>
#include <optional>

#include "dualfp/server/http/http_types.h"
#include "dualfp/server/http/transport.h"
#include "dualfp/server/server_config.h"

namespace dualfp::http_internal {

class RequestReader {
 public:
  // Both must outlive this.
  RequestReader(Transport* transport, const ServerConfig* config)
      : transport_(transport), config_(config) {}

  // The next request's head. False when the connection ended before one began. Throws ApiError for
  // what is no request that can be answered; after that the connection cannot be used again.
  asio::awaitable<bool> ReadHead(HttpRequest* request);

  // The rest of the request whose head was read. `grow` hears how large the body is so far, and
  // throws where there is no room for it. False and ApiError as above.
  asio::awaitable<bool> ReadBody(HttpRequest* request, std::function<void(size_t)> grow);

  // Of the request at hand, once its head was read.
  bool keep_alive() const { return parser_->keep_alive(); }
  bool http_1_0() const { return parser_->get().version() < 11; }
  bool complete() const { return parser_ && parser_->is_done(); }

  // Drops what came beyond the last request.
  void Discard() { buffer_.consume(buffer_.size()); }

 private:
  using Parser = beast::http::request_parser<beast::http::string_body>;
  enum class Fed : uint8_t { kProgress, kWantsMore };

  // Hands the parser what was received; throws ApiError 400 for broken HTTP.
  Fed Feed();
  // Receives; false at the end of the connection.
  asio::awaitable<bool> Receive(size_t max_bytes);
  bool DropEmptyLines();
  void CheckBodyOverhead();
  void Fill(HttpRequest* request) const;

  Transport* transport_;
  const ServerConfig* config_;
  beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  size_t body_wire_bytes_ = 0;  // of the body, with what frames it
  bool ended_in_order_ = false;
};

}  // namespace dualfp::http_internal
