// The HTTP server: listens, reads requests, hands them to a Service, writes answers.
//
// Asynchronous on one thread, with workers for the bodies that take time to parse; a connection
// costs a coroutine, not a thread. Every connection is bounded in time and memory (ServerConfig).

#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "dualfp/server/server_config.h"

namespace dualfp {

class HttpServer {
 public:
  // Listens from now on, and answers once Run() is called. Throws kIo, naming address and reason,
  // where it cannot; kInvalidArgument for a host that is none and keys that cannot be sent;
  // kInvalidFile for a certificate that is none.
  explicit HttpServer(ServerConfig config);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  uint16_t port() const;  // 0 for a Unix socket

  // Any thread, once. Until then /health says "loading" and requests get 503.
  void Attach(ServedModel model);

  // Serves on the calling thread until Stop() or a signal, then as long as shutdown_grace allows
  // for what still runs. A second signal ends that time.
  void Run();

  // Any thread, any time: no new requests, and Run() returns when the running ones are answered.
  void Stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Lets this process have as many descriptors as the system allows it; returns how many.
int RaiseDescriptorLimit();

}  // namespace dualfp
