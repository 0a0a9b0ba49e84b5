// One streamed completion as a load generator sees it: the request's body, and the stamps of what
// comes back.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bench/serving/report/serving_metrics.h"
#include "dualfp/server/http/event_stream.h"
#include "dualfp/server/http/http_client.h"

namespace dualfp {

// Text, or token ids where the server has been found to take them.
struct RandomPrompt {
  std::vector<int32_t> ids;
  std::string text;  // where `ids` is empty
};

struct CompletionOptions {
  std::string endpoint = "/v1/completions";  // or "/v1/chat/completions"
  std::string model;
  double temperature = 0;
  bool ignore_eos = true;
  std::string precision;  // "exact", "fp8" or "auto"; empty: not mentioned

  bool chat() const;
};

std::string CompletionBody(const CompletionOptions& options, const RandomPrompt& prompt,
                           int64_t output_tokens);

// Fills in a record while a stream comes in.
class StreamedAnswer {
 public:
  // `sent`: when the request was. `record` has its start and planned token counts already.
  StreamedAnswer(RequestRecord* record, TimePoint sent);
  StreamedAnswer(const StreamedAnswer&) = delete;
  StreamedAnswer& operator=(const StreamedAnswer&) = delete;

  void OnBody(int status, std::string_view piece, TimePoint at);

  // Settles whether the record is a success.
  void OnEnd(int status, const std::string& error);

 private:
  void OnEvent(std::string_view data);

  RequestRecord* record_;
  TimePoint sent_;
  TimePoint now_;   // when the piece at hand came
  TimePoint last_;  // when the token before it came
  int64_t chunks_ = 0;
  bool usage_seen_ = false;
  bool done_ = false;
  std::string refusal_;  // the body of an answer that is no stream
  EventStreamReader events_;
};

// "HTTP 429: the queue is full", from an error's status and JSON.
std::string DescribeRefusal(int status, std::string_view body);

}  // namespace dualfp
