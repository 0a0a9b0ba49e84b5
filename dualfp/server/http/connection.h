// One client's connection: reads a request, has it answered, and again until it closes.
// Internal to http/: the only headers that see Boost.

#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "dualfp/server/access_log.h"
#include "dualfp/server/http/request_reader.h"
#include "dualfp/server/http/transport.h"
#include "dualfp/server/service.h"

namespace dualfp::http_internal {

class Connection;

// What the connections share. All of it belongs to the server's thread.
struct ServerState {
  ServerConfig config;
  Service* service = nullptr;
  asio::thread_pool* workers = nullptr;
  std::unique_ptr<asio::ssl::context> tls;  // null: plain
  std::list<Connection*> connections;
  std::list<Connection*> waiting;  // for a request or its body, longest first
  size_t body_bytes = 0;           // of requests that are being read, but for small ones
  bool draining = false;
};

class Connection final : public ResponseSink, public std::enable_shared_from_this<Connection> {
 public:
  Connection(Transport::Socket socket, ServerState* server);
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
  asio::awaitable<bool> ServeOne();
  asio::awaitable<bool> ReadRequest();
  asio::awaitable<void> Answer();
  asio::awaitable<void> Flush();
  asio::awaitable<void> WatchForDisconnect(uint64_t exchange);
  bool LooksGone();
  asio::awaitable<void> CloseGently();
  std::string ResponseHead(const HttpResponse& response) const;
  void MakeRoomForBody(size_t size);
  void SetWaiting(bool waiting);
  void Wake();
  void ReleaseBody();
  void LogExchange();

  std::unique_ptr<Transport> transport_;
  RequestReader reader_;
  asio::steady_timer wake_;
  asio::steady_timer watch_;
  ServerState* server_;
  std::list<Connection*>::iterator place_;
  std::optional<std::list<Connection*>::iterator> waiting_place_;
  std::string client_;
  std::string local_address_;

  // The exchange at hand.
  uint64_t exchange_ = 0;  // counts them
  HttpRequest request_;
  std::vector<std::pair<std::string, std::string>> headers_;  // of its answer, whatever that is
  bool keep_alive_ = false;
  bool http_1_0_ = false;
  bool unread_body_ = false;   // refused by its head: the connection cannot be used again
  size_t body_bytes_ = 0;      // this request's part of ServerState::body_bytes
  TimePoint body_begin_{};     // when its body began to be read
  bool client_ended_ = false;  // its side: it may read on, or be gone
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
