// Every endpoint, without sockets: requests in, answers out. README.md lists what it speaks.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <variant>

#include "dualfp/server/generation.h"
#include "dualfp/server/http/http_types.h"
#include "dualfp/server/metrics_text.h"
#include "dualfp/server/output_mailbox.h"
#include "dualfp/server/server_config.h"

namespace dualfp {

class Service {
 public:
  // `wake` is called from the engine's thread when there are outputs to Deliver(); must not block.
  Service(ServerConfig config, std::function<void()> wake);

  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  // Any thread, once: from now on there is a model to ask.
  void Attach(ServedModel model);

  // The answer to a request of which only the head was read, where that suffices to refuse it:
  // wrong key, path, method or content type, or no model to ask.
  std::optional<HttpResponse> RefuseByHead(const HttpRequest& head) const;

  // All that takes time: parses, checks and tokenizes. Thread-safe. Either the whole answer, or
  // what Start() takes.
  using Prepared = std::variant<HttpResponse, std::unique_ptr<PreparedGeneration>>;
  Prepared Prepare(const HttpRequest& request);

  // The rest is for the server's thread alone.

  // Submits to the engine. The answer goes to `sink`, possibly (a refusal) before this returns.
  std::shared_ptr<Generation> Start(std::unique_ptr<PreparedGeneration> prepared,
                                    ResponseSink* sink);

  // Passes the engine's outputs on to the answers they belong to; not all at once, so that what
  // was written can be sent in between. True when there may be more.
  bool Deliver();

  // Generation from now on is refused with 503; what runs goes on.
  void StopAccepting() { accepting_ = false; }
  // `wake` is not called any more. Before what it uses goes away.
  void Disconnect() { mailbox_->Close(); }
  // Ends what runs with an error.
  void FailAll();
  // Answers being generated.
  size_t num_active() const { return active_.size(); }

  HttpMetrics& http_metrics() { return http_metrics_; }

 private:
  struct Active {
    std::shared_ptr<Generation> generation;
    int prompt = 0;
  };

  std::shared_ptr<const ServedModel> model() const;
  std::shared_ptr<const ServedModel> ModelNamed(const std::string& name) const;
  HttpResponse Answer(const HttpRequest& request);
  HttpResponse Health() const;
  HttpResponse Models(const std::string& path) const;
  HttpResponse Tokenize(const std::string& body) const;
  HttpResponse Detokenize(const std::string& body) const;
  HttpResponse Precision(const HttpRequest& request) const;
  bool Authorized(const HttpRequest& head) const;

  const ServerConfig config_;
  // Shared with the engine's sinks, which may outlive this.
  std::shared_ptr<OutputMailbox> mailbox_;
  mutable std::mutex model_mutex_;
  std::shared_ptr<const ServedModel> model_;  // guarded by model_mutex_
  std::atomic<bool> accepting_{true};
  HttpMetrics http_metrics_;
  uint64_t next_tag_ = 1;
  std::unordered_map<uint64_t, Active> active_;  // by tag
};

// An ApiError as an answer, with Retry-After and WWW-Authenticate where they belong.
HttpResponse ErrorResponse(const ApiError& error);

}  // namespace dualfp
