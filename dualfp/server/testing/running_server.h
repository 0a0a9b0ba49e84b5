// A server over a toy model on a thread of its own, for tests with real sockets.

#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "dualfp/server/access_log.h"
#include "dualfp/server/http/http_server.h"
#include "dualfp/server/testing/http_probe.h"
#include "dualfp/server/testing/toy_model.h"

namespace dualfp::testing {

class RunningServer {
 public:
  explicit RunningServer(const ToyOptions& toy = {}, ServerConfig config = {}) : model_(toy) {
    config.port = 0;
    config.handle_signals = false;
    config.access_log = [this](const AccessRecord& record) {
      const std::lock_guard lock(mutex_);
      records_.push_back(record);
    };
    server_ = std::make_unique<HttpServer>(config);
    server_->Attach(model_.Serve());
    thread_ = std::thread([this] { server_->Run(); });
  }
  ~RunningServer() { Stop(); }

  void Stop() {
    server_->Stop();
    if (thread_.joinable()) {
      thread_.join();
    }
  }

  uint16_t port() const { return server_->port(); }
  Engine& engine() { return model_.engine(); }
  HttpServer& server() { return *server_; }

  // A metric's value, without labels but the model's.
  double Metric(const std::string& name) const {
    const std::string text = Fetch(port(), "GET", "/metrics").body;
    const std::string line = "\ndualfp:" + name + "{model_name=\"toy\"} ";
    const size_t at = text.find(line);
    return at == std::string::npos ? -1.0 : std::stod(text.substr(at + line.size()));
  }

  // Until the engine has nothing left to do.
  bool WaitUntilIdle() {
    for (int i = 0; i < 2000; ++i) {
      const EngineStats stats = engine().Stats();
      if (stats.num_running + stats.num_waiting == 0) {
        return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  std::vector<AccessRecord> records() {
    const std::lock_guard lock(mutex_);
    return records_;
  }

 private:
  ToyModel model_;
  std::mutex mutex_;
  std::vector<AccessRecord> records_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

// The head of a request with a body, but for its framing.
inline std::string PostHead() {
  return "POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n";
}

inline std::string StreamBody(int tokens) {
  return R"({"prompt": "ab", "stream": true, "ignore_eos": true, "temperature": 0,
             "max_tokens": )" +
         std::to_string(tokens) + "}";
}

}  // namespace dualfp::testing
