// One client's connection: reads a request, has it answered, and again until it closes.
// Internal to http/: the only headers that see Boost.

#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "dualfp/server/access_log.h"
#include "dualfp/server/service.h"

namespace dualfp::http_internal {

namespace asio = boost::asio;
namespace beast = boost::beast;

class Connection;

// What the connections share. All of it belongs to the server's thread.
struct ServerState {
  ServerConfig config;
  Service* service = nullptr;
  asio::thread_pool* workers = nullptr;
  std::list<Connection*> connections;
  std::list<Connection*> waiting;  // for a request or its body, longest first
  size_t body_bytes = 0;           // of requests that are being read
  bool draining = false;
};

class Connection final : public ResponseSink, public std::enable_shared_from_this<Connection> {
 public:
  Connection(asio::ip::tcp::socket socket, ServerState* server);
  ~Connection() override;

  // The whole life of the connection.
  asio::awaitable<void> Run();

  // Ends it now; an answer that is being written is cut.
  void Close();

  // ResponseSink
  void Send(HttpResponse response) override;
  void BeginStream() override;
  bool Write(std::string_view events) override;
  void EndStream() override;
  void Summarize(const GenerationSummary& summary) override;

 private:
  using Parser = beast::http::request_parser<beast::http::string_body>;
  enum class ReadResult : uint8_t { kRequest, kAnswered, kClosed };

  asio::awaitable<bool> ServeOne();
  asio::awaitable<ReadResult> ReadHead(Parser& parser);
  asio::awaitable<ReadResult> ReadBody(Parser& parser);
  asio::awaitable<void> Answer();
  asio::awaitable<void> Flush();
  asio::awaitable<void> WatchForDisconnect(uint64_t exchange);
  asio::awaitable<void> CloseGently();
  ReadResult Refuse(HttpResponse response);
  void SetWaiting(bool waiting);
  void Wake();
  void ReleaseBody();
  void LogExchange();

  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  asio::steady_timer wake_;
  ServerState* server_;
  std::list<Connection*>::iterator place_;
  std::optional<std::list<Connection*>::iterator> waiting_place_;
  std::string client_;

  // The exchange at hand.
  uint64_t exchange_ = 0;  // counts them
  HttpRequest request_;
  bool keep_alive_ = false;
  bool http_1_0_ = false;
  bool unread_body_ = false;  // refused by its head: the connection cannot be used again
  size_t body_bytes_ = 0;     // this request's part of ServerState::body_bytes
  std::shared_ptr<Generation> generation_;
  std::string out_;      // to be written
  std::string writing_;  // being written
  bool streaming_ = false;
  bool complete_ = false;  // out_ holds the end of the answer
  bool broken_ = false;    // the client is gone, or too slow
  int status_ = 0;
  uint64_t bytes_written_ = 0;
  std::optional<GenerationSummary> summary_;
};

}  // namespace dualfp::http_internal
