// Every endpoint, without sockets: requests in, answers out. /openapi.json lists them.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>

#include "dualfp/server/access_policy.h"
#include "dualfp/server/generation.h"
#include "dualfp/server/http/http_types.h"
#include "dualfp/server/metrics_text.h"
#include "dualfp/server/output_mailbox.h"
#include "dualfp/server/server_config.h"

namespace dualfp {

class Service {
 public:
  // `wake` is called from the engine's thread when there are outputs to Deliver(); must not block.
  // Throws kInvalidArgument for keys that cannot be sent and a metrics prefix that is no name.
  Service(ServerConfig config, std::function<void()> wake);

  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  // Any thread, once: from now on there is a model to ask. Throws kInvalidFile for defaults of
  // sampling that no request could have.
  void Attach(ServedModel model);

  // The answer to a request of which only the head was read, where that suffices: wrong host, key,
  // path, method or content type, no model to ask, or a question about what is allowed.
  std::optional<HttpResponse> RefuseByHead(const HttpRequest& head) const;

  // All that takes time: unpacks, parses, checks and tokenizes. Thread-safe. Either the whole
  // answer, or what Start() takes.
  using Prepared = std::variant<HttpResponse, std::unique_ptr<PreparedGeneration>>;
  Prepared Prepare(HttpRequest request) const;

  const AccessPolicy& access() const { return access_; }

  // A path and what answers it. The one list of both.
  struct Route {
    std::string_view path;      // "{model}" at its end: any rest
    std::string_view methods;   // comma-separated, as the Allow header has them
    std::string_view key = "";  // of whom: "" of nobody, "api", or "admin" for PUT and "api" else
    bool needs_model = false;
    Prepared (Service::*answer)(const HttpRequest& request) const = nullptr;
  };
  static std::span<const Route> Routes();

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
  // ApiError 404 where there is none of that name. Empty: the one that is served.
  std::shared_ptr<const ServedModel> ModelNamed(const std::string& name) const;
  std::optional<HttpResponse> RefuseCaller(const Route* route, const HttpRequest& head) const;
  HttpResponse AnswerOptions(const Route* route, const HttpRequest& head) const;

  // endpoints.cc
  Prepared Page(const HttpRequest& request) const;
  Prepared Docs(const HttpRequest& request) const;
  Prepared OpenApi(const HttpRequest& request) const;
  Prepared Health(const HttpRequest& request) const;
  Prepared Version(const HttpRequest& request) const;
  Prepared Metrics(const HttpRequest& request) const;
  Prepared Models(const HttpRequest& request) const;
  Prepared OneModel(const HttpRequest& request) const;
  Prepared Completions(const HttpRequest& request) const;
  Prepared ChatCompletions(const HttpRequest& request) const;
  Prepared Tokenize(const HttpRequest& request) const;
  Prepared Detokenize(const HttpRequest& request) const;
  Prepared Precision(const HttpRequest& request) const;
  RequestRules Rules() const;

  const ServerConfig config_;
  const AccessPolicy access_;
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
