// The bytes under a connection: a TCP or Unix socket, plain or under TLS. Internal to http/.

#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

namespace dualfp::http_internal {

namespace asio = boost::asio;
namespace beast = boost::beast;

class Transport {
 public:
  using Protocol = asio::generic::stream_protocol;
  using Socket = Protocol::socket;

  struct Result {
    boost::system::error_code error;
    size_t bytes = 0;
  };

  virtual ~Transport() = default;

  // Before anything else; does nothing without TLS.
  virtual asio::awaitable<Result> Handshake() = 0;
  // At least one byte, or an error: end_of_file where the client has ended its side in order.
  virtual asio::awaitable<Result> ReadSome(asio::mutable_buffer buffer) = 0;
  virtual asio::awaitable<Result> Write(asio::const_buffer buffer) = 0;
  // Nothing more will be written; the client sees the end.
  virtual asio::awaitable<void> EndWriting() = 0;

  // For what is awaited from now on; when it is over, the socket is closed.
  virtual void ExpiresAfter(std::chrono::milliseconds time) = 0;
  virtual Socket& socket() = 0;
  virtual void Close() = 0;
};

// `tls` may be null: plain. It must outlive the result.
std::unique_ptr<Transport> MakeTransport(Transport::Socket socket, asio::ssl::context* tls);

// Certificate (with its chain) and key, both PEM. Throws kInvalidFile or kIo naming the file.
std::unique_ptr<asio::ssl::context> LoadTlsContext(const std::string& certificate_file,
                                                   const std::string& key_file);

}  // namespace dualfp::http_internal
