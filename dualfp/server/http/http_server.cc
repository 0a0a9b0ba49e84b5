#include "dualfp/server/http/http_server.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <csignal>
#include <list>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/server/http/connection.h"

namespace dualfp {

using http_internal::Connection;
using http_internal::ServerState;
using http_internal::Transport;
namespace asio = boost::asio;
using asio::ip::tcp;
using UnixSocket = asio::local::stream_protocol;
using boost::system::error_code;

namespace {

constexpr auto kAwait = asio::experimental::as_tuple(asio::use_awaitable);

// Descriptors that are not connections: files, logs, the model, the listener.
constexpr int kOtherDescriptors = 64;

// After the grace time: for the errors to reach the clients.
constexpr std::chrono::seconds kLastWords{2};

tcp::endpoint Resolve(const std::string& host, uint16_t port, asio::io_context* context) {
  error_code error;
  const asio::ip::address address = asio::ip::make_address(host, error);
  if (!error) {
    return {address, port};
  }
  tcp::resolver resolver(*context);
  const auto found = resolver.resolve(host, std::to_string(port), error);
  Check(!error && !found.empty(), ErrorCode::kInvalidArgument, "host ", host,
        " is neither an address nor a known name: ", error.message());
  return found.begin()->endpoint();
}

// A socket's file that nobody listens at any more is in the way of the next one.
void RemoveStaleSocket(const std::string& path, asio::io_context* context) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) {
    return;
  }
  error_code error;
  UnixSocket::socket probe(*context);
  probe.connect(UnixSocket::endpoint(path), error);
  if (error == asio::error::connection_refused) {
    unlink(path.c_str());
  }
}

}  // namespace

int RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return 1024;
  }
  const rlim_t before = limit.rlim_cur;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    limit.rlim_cur = before;
  }
  return static_cast<int>(std::min<rlim_t>(limit.rlim_cur, 1 << 20));
}

struct HttpServer::Impl {
  explicit Impl(ServerConfig server_config)
      : service(server_config, [this] { asio::post(context, [this] { Deliver(); }); }),
        workers(static_cast<size_t>(std::max(1, server_config.worker_threads))),
        acceptor(context),
        unix_acceptor(context),
        signals(context),
        drain_timer(context) {
    const int descriptors = RaiseDescriptorLimit();
    state.config = std::move(server_config);
    state.service = &service;
    state.workers = &workers;
    Check(state.config.ssl_certfile.empty() == state.config.ssl_keyfile.empty(),
          ErrorCode::kInvalidArgument, "TLS needs both --ssl-certfile and --ssl-keyfile");
    if (!state.config.ssl_certfile.empty()) {
      state.tls =
          http_internal::LoadTlsContext(state.config.ssl_certfile, state.config.ssl_keyfile);
    }
    int& max_connections = state.config.max_connections;
    max_connections = std::clamp(descriptors - kOtherDescriptors, 1, max_connections);
  }

  ~Impl() {
    // The engine may still produce outputs, and workers use the coroutines' memory.
    service.Disconnect();
    workers.join();
    if (unlink_socket) {
      unlink(state.config.uds.c_str());
    }
  }

  void Deliver() {
    if (service.Deliver()) {
      asio::post(context, [this] { Deliver(); });
    }
  }

  void Listen() {
    const ServerConfig& config = state.config;
    if (!config.uds.empty()) {
      constexpr size_t kMaxPath = sizeof(sockaddr_un::sun_path) - 1;
      Check(config.uds.size() <= kMaxPath, ErrorCode::kInvalidArgument,
            "the path of a Unix socket "
            "may have ",
            kMaxPath, " bytes: ", config.uds);
      RemoveStaleSocket(config.uds, &context);
      ListenAt(unix_acceptor, UnixSocket::endpoint(config.uds), config.uds);
      unlink_socket = true;
      return;
    }
    const tcp::endpoint endpoint = Resolve(config.host, config.port, &context);
    ListenAt(acceptor, endpoint, StrCat(config.host, " port ", config.port));
    port = acceptor.local_endpoint().port();
  }

  template <typename Acceptor>
  void ListenAt(Acceptor& listener, const typename Acceptor::endpoint_type& endpoint,
                const std::string& name) {
    const auto check = [&](const error_code& error) {
      Check(!error, ErrorCode::kIo, "cannot listen on ", name, ": ", error.message());
    };
    error_code error;
    listener.open(endpoint.protocol(), error);
    check(error);
    listener.set_option(asio::socket_base::reuse_address(true), error);
    check(error);
    listener.bind(endpoint, error);
    check(error);
    listener.listen(asio::socket_base::max_listen_connections, error);
    check(error);
  }

  template <typename Acceptor>
  asio::awaitable<void> Accept(Acceptor& listener) {
    asio::steady_timer pause(context);
    while (listener.is_open()) {
      Transport::Socket socket(context);
      const auto [error] = co_await listener.async_accept(socket, kAwait);
      if (error == asio::error::operation_aborted) {
        break;
      }
      if (error) {
        // Out of descriptors, most likely: wait for some to be freed.
        LogWarning(StrCat("cannot accept a connection: ", error.message()));
        pause.expires_after(std::chrono::milliseconds(100));
        co_await pause.async_wait(kAwait);
        continue;
      }
      Admit(std::move(socket));
    }
  }

  void Admit(Transport::Socket socket) {
    if (static_cast<int>(state.connections.size()) >= state.config.max_connections) {
      if (state.waiting.empty()) {
        service.http_metrics().connections_refused_total.Add();
        static constexpr std::string_view kBusy =
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n"
            "Connection: close\r\n\r\n";
        if (state.tls == nullptr) {
          error_code ignored;
          socket.non_blocking(true, ignored);
          socket.write_some(asio::buffer(kBusy), ignored);
        }
        return;
      }
      // The one that has kept us waiting longest makes room.
      service.http_metrics().connections_evicted_total.Add();
      Connection* oldest = state.waiting.front();
      oldest->Close();
    }
    auto connection = std::make_shared<Connection>(std::move(socket), &state);
    asio::co_spawn(
        context, [connection] { return connection->Run(); }, asio::detached);
  }

  asio::awaitable<void> HandleSignals() {
    while (true) {
      const auto [error, number] = co_await signals.async_wait(kAwait);
      if (error) {
        co_return;
      }
      LogInfo(StrCat("signal ", number, ": ",
                     state.draining ? "ending what still runs" : "shutting down"));
      if (state.draining) {
        hurry = true;
        drain_timer.cancel();
      } else {
        BeginDrain();
      }
    }
  }

  void BeginDrain() {
    if (std::exchange(state.draining, true)) {
      return;
    }
    service.StopAccepting();
    error_code ignored;
    acceptor.close(ignored);
    unix_acceptor.close(ignored);
    asio::co_spawn(
        context, [this] { return Drain(); }, asio::detached);
  }

  // Waits until every answer is written, with an error for those that take too long.
  asio::awaitable<void> Drain() {
    const auto close_idle = [this] {
      // A copy: closing changes nothing at once, but let that be nobody's worry.
      for (Connection* connection : std::list<Connection*>(state.waiting)) {
        connection->Close();
      }
    };
    const TimePoint grace = Clock::now() + state.config.shutdown_grace;
    bool failed = false;
    TimePoint end = grace;
    close_idle();
    while (!state.connections.empty()) {
      if (!failed && (hurry || Clock::now() >= grace)) {
        failed = true;
        end = Clock::now() + kLastWords;
        service.FailAll();
      }
      if (failed && Clock::now() >= end) {
        break;
      }
      drain_timer.expires_after(std::chrono::milliseconds(10));
      co_await drain_timer.async_wait(kAwait);
      close_idle();
    }
    for (Connection* connection : std::list<Connection*>(state.connections)) {
      connection->Close();
    }
    signals.cancel();
    context.stop();
  }

  // Destroyed from the last to the first: the context goes first and takes the connections along.
  ServerState state;
  Service service;
  asio::thread_pool workers;
  asio::io_context context{1};
  tcp::acceptor acceptor;
  UnixSocket::acceptor unix_acceptor;
  asio::signal_set signals;
  asio::steady_timer drain_timer;
  uint16_t port = 0;
  bool unlink_socket = false;
  bool hurry = false;
};

HttpServer::HttpServer(ServerConfig config) : impl_(std::make_unique<Impl>(std::move(config))) {
  impl_->Listen();
  if (impl_->state.config.handle_signals) {
    impl_->signals.add(SIGINT);
    impl_->signals.add(SIGTERM);
  }
}

HttpServer::~HttpServer() = default;

uint16_t HttpServer::port() const { return impl_->port; }

void HttpServer::Attach(ServedModel model) { impl_->service.Attach(std::move(model)); }

void HttpServer::Run() {
  if (impl_->state.config.handle_signals) {
    asio::co_spawn(
        impl_->context, [this] { return impl_->HandleSignals(); }, asio::detached);
  }
  asio::co_spawn(
      impl_->context,
      [this] {
        return impl_->unix_acceptor.is_open() ? impl_->Accept(impl_->unix_acceptor)
                                              : impl_->Accept(impl_->acceptor);
      },
      asio::detached);
  const auto keep_running = asio::make_work_guard(impl_->context);
  impl_->context.run();
}

void HttpServer::Stop() {
  asio::post(impl_->context, [impl = impl_.get()] { impl->BeginDrain(); });
}

}  // namespace dualfp
