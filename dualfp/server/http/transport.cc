#include "dualfp/server/http/transport.h"

#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "dualfp/base/check.h"

namespace dualfp::http_internal {
namespace {

using boost::system::error_code;
using PlainStream = beast::basic_stream<Transport::Protocol>;

constexpr auto kAwait = asio::experimental::as_tuple(asio::use_awaitable);

template <typename Stream>
asio::awaitable<Transport::Result> ReadFrom(Stream& stream, asio::mutable_buffer buffer) {
  const auto [error, bytes] = co_await stream.async_read_some(buffer, kAwait);
  co_return Transport::Result{error, bytes};
}

template <typename Stream>
asio::awaitable<Transport::Result> WriteTo(Stream& stream, asio::const_buffer buffer) {
  const auto [error, bytes] = co_await asio::async_write(stream, buffer, kAwait);
  co_return Transport::Result{error, bytes};
}

class PlainTransport final : public Transport {
 public:
  explicit PlainTransport(Socket socket) : stream_(std::move(socket)) {}

  asio::awaitable<Result> Handshake() override { co_return Result{}; }
  asio::awaitable<Result> ReadSome(asio::mutable_buffer buffer) override {
    return ReadFrom(stream_, buffer);
  }
  asio::awaitable<Result> Write(asio::const_buffer buffer) override {
    return WriteTo(stream_, buffer);
  }
  asio::awaitable<void> EndWriting() override {
    error_code ignored;
    socket().shutdown(Socket::shutdown_send, ignored);
    co_return;
  }
  void ExpiresAfter(std::chrono::milliseconds time) override { stream_.expires_after(time); }
  Socket& socket() override { return stream_.socket(); }
  void Close() override { stream_.close(); }

 private:
  PlainStream stream_;
};

class TlsTransport final : public Transport {
 public:
  TlsTransport(Socket socket, asio::ssl::context& tls) : stream_(std::move(socket), tls) {}

  asio::awaitable<Result> Handshake() override {
    const auto [error] = co_await stream_.async_handshake(asio::ssl::stream_base::server, kAwait);
    co_return Result{error, 0};
  }
  asio::awaitable<Result> ReadSome(asio::mutable_buffer buffer) override {
    return ReadFrom(stream_, buffer);
  }
  asio::awaitable<Result> Write(asio::const_buffer buffer) override {
    return WriteTo(stream_, buffer);
  }
  asio::awaitable<void> EndWriting() override {
    // Sends close_notify and waits for the client's.
    co_await stream_.async_shutdown(kAwait);
    error_code ignored;
    socket().shutdown(Socket::shutdown_send, ignored);
  }
  void ExpiresAfter(std::chrono::milliseconds time) override {
    stream_.next_layer().expires_after(time);
  }
  Socket& socket() override { return stream_.next_layer().socket(); }
  void Close() override { stream_.next_layer().close(); }

 private:
  asio::ssl::stream<PlainStream> stream_;
};

}  // namespace

std::unique_ptr<Transport> MakeTransport(Transport::Socket socket, asio::ssl::context* tls) {
  if (tls == nullptr) {
    return std::make_unique<PlainTransport>(std::move(socket));
  }
  return std::make_unique<TlsTransport>(std::move(socket), *tls);
}

std::unique_ptr<asio::ssl::context> LoadTlsContext(const std::string& certificate_file,
                                                   const std::string& key_file) {
  auto context = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_server);
  context->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 |
                       asio::ssl::context::no_sslv3 | asio::ssl::context::no_tlsv1 |
                       asio::ssl::context::no_tlsv1_1);
  // A key under a passphrase would otherwise ask for it on the terminal.
  context->set_password_callback(
      [](size_t, asio::ssl::context::password_purpose) { return std::string(); });
  error_code error;
  context->use_certificate_chain_file(certificate_file, error);
  Check(!error, ErrorCode::kInvalidFile, certificate_file,
        ": not a certificate in PEM form: ", error.message());
  context->use_private_key_file(key_file, asio::ssl::context::pem, error);
  Check(!error, ErrorCode::kInvalidFile, key_file,
        ": not a private key in PEM form, without a passphrase, for ", certificate_file, ": ",
        error.message());
  return context;
}

}  // namespace dualfp::http_internal
