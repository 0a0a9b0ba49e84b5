// What a load test measured of each request, and the figures that sum it up. Definitions and names
// are those of `vllm bench serve`, so that results can be laid side by side.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/statistics.h"
#include "dualfp/engine/request.h"

namespace dualfp {

// Times in seconds; starts count from the beginning of the run.
struct RequestRecord {
  double planned = 0;  // when the workload wanted it sent
  double start = 0;    // when it was sent: later, where the concurrency is bounded
  double ttft = 0;     // from the start to the first token
  // Between each chunk of the stream and the one before. A server that packs several tokens into
  // a chunk has fewer of these than tokens.
  std::vector<double> itl;
  double latency = 0;  // from the start to the last token
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;                // as the server counted them, else the chunks
  TokensByPrecision tokens_by_precision{};  // of dualfp servers: prompt and output
  std::string error;                        // empty: the answer came whole

  bool ok() const { return error.empty(); }

  // Time per output token after the first; 0 when there is none after the first.
  double tpot() const {
    return output_tokens > 1 ? (latency - ttft) / static_cast<double>(output_tokens - 1) : 0;
  }
};

// Limits that a request has to keep, all of those given, to count as good. Seconds.
struct Goodput {
  std::optional<double> ttft;
  std::optional<double> tpot;
  std::optional<double> e2el;

  bool any() const { return ttft || tpot || e2el; }
  bool Holds(const RequestRecord& record) const;
};

// "ttft:200 tpot:50", in milliseconds; one or more. Throws kInvalidArgument.
Goodput ParseGoodput(const std::vector<std::string>& limits);

struct ServingMetrics {
  int64_t completed = 0;
  int64_t failed = 0;
  double duration = 0;  // from the beginning of the run to the end of the last answer
  int64_t total_input_tokens = 0;
  int64_t total_output_tokens = 0;
  double request_throughput = 0;          // completed requests a second
  double output_throughput = 0;           // tokens a second
  double total_token_throughput = 0;      // tokens a second, prompts included
  std::optional<double> request_goodput;  // good requests a second
  std::optional<double> good_share;       // of all that were sent
  int64_t peak_concurrency = 0;           // most requests in flight at one moment
  int64_t max_concurrent_requests = 0;    // vLLM's: most requests that touched one second
  double max_output_tokens_per_s = 0;     // most chunks that came in one second
  Summary ttft;
  Summary tpot;  // of requests with two tokens or more
  Summary itl;
  Summary e2el;
  TokensByPrecision tokens_by_precision{};
};

// Failed requests count in `failed` and in nothing else.
ServingMetrics Measure(const std::vector<RequestRecord>& records, double duration,
                       const Goodput& goodput);

}  // namespace dualfp
