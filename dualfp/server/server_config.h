// Everything about the server that can be set, with the limits that keep one client from harming
// the others.

#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dualfp/llm/text_codec.h"
#include "dualfp/server/engine_client.h"
#include "dualfp/server/openai/openai_request.h"

namespace dualfp {

struct AccessRecord;

struct ServerConfig {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;  // 0: any free one
  std::string uds;       // a Unix socket's path, instead of host and port

  // PEM files; both or neither. With them the server speaks HTTPS.
  std::string ssl_certfile;
  std::string ssl_keyfile;

  // Where not empty, all but the page, /health, /version, /metrics and the documentation ask for
  // one of these as "Authorization: Bearer KEY".
  std::vector<std::string> api_keys;
  // What PUT /v1/precision asks for; empty: an API key.
  std::vector<std::string> admin_keys;

  // Names that the Host header may have ("*.example.org": all below; "*": any). Empty: names of
  // this machine and its network, or any where there are API keys.
  std::vector<std::string> allowed_hosts;
  // Pages of these origins ("http://localhost:3000"; "*": any) may see the answers.
  std::vector<std::string> allowed_origins;

  bool enable_priorities = false;         // else a request's priority is refused
  std::string metrics_prefix = "dualfp";  // before the colon of a metric's name
  std::string root_path;                  // what a proxy puts before every path: "/llm"

  // Beyond max_connections the connection that has waited longest for a request is closed; where
  // all are being answered, the new one gets 503. Lowered to what the descriptor limit allows.
  int max_connections = 4096;
  size_t max_header_bytes = 16 << 10;
  size_t max_body_bytes = 16 << 20;
  // Of all requests that are being read, but for those of up to inline_body_bytes. Beyond, the
  // upload that takes longest is closed, or where all have just begun the new one gets 503.
  size_t max_total_body_bytes = 256 << 20;
  std::chrono::milliseconds fair_body_time{2'000};  // which an upload has in any case

  // Events that a streaming client has not taken yet. Beyond, its request is cancelled and its
  // connection closed: an event stream with a hole would be worse than none.
  size_t max_stream_backlog_bytes = 4 << 20;

  std::chrono::milliseconds idle_timeout{75'000};    // between requests
  std::chrono::milliseconds header_timeout{30'000};  // for a whole head
  std::chrono::milliseconds body_timeout{120'000};   // for a whole body
  std::chrono::milliseconds write_timeout{60'000};   // without a byte taken

  // From SIGTERM or SIGINT until what still runs is ended with an error.
  std::chrono::milliseconds shutdown_grace{30'000};
  bool handle_signals = true;

  int worker_threads = 1;              // parse and tokenize large bodies
  size_t inline_body_bytes = 8 << 10;  // smaller ones are not worth the way to a worker

  // Called on the server's thread after each answer; must not block. Optional.
  std::function<void(const AccessRecord&)> access_log;
};

struct ServedModel {
  std::vector<std::string> names;  // what requests may call it; the first is what answers say
  std::string root;                // the path it was loaded from
  int64_t created = 0;             // seconds since 1970
  std::shared_ptr<EngineClient> engine;
  std::shared_ptr<const TextCodec> text;  // null: prompts and answers are token ids only
  SamplingDefaults defaults;
};

}  // namespace dualfp
