// One API request that generates: a set of engine requests (one a prompt), and how their outputs
// become an answer, whole or streamed.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dualfp/server/engine_client.h"
#include "dualfp/server/engine_output.h"
#include "dualfp/server/http/http_types.h"
#include "dualfp/server/openai/api_error.h"
#include "dualfp/server/openai/openai_response.h"
#include "dualfp/server/server_config.h"

namespace dualfp {

// What a request became after parsing and tokenizing; nothing is submitted yet.
struct PreparedGeneration {
  std::shared_ptr<const ServedModel> model;
  ResponseHead head;
  ResponseOptions options;
  std::vector<Request> requests;          // one a prompt
  std::vector<std::string> prompt_texts;  // one a prompt where `echo`, else empty
  bool echo = false;
  bool generate = true;  // false: the completion's one token is left out of the answer
  bool skip_special_tokens = true;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
};

// Lives on the server's thread. `sink` is used until the answer is complete or Abandon() is called.
class Generation {
 public:
  Generation(std::unique_ptr<PreparedGeneration> prepared, ResponseSink* sink);

  int num_prompts() const { return static_cast<int>(prepared_->requests.size()); }

  // Submits prompt by prompt; `make_sink(i)` gives the sink of prompt i. Throws what
  // Engine::Submit() throws; what was submitted before is then cancelled.
  void Submit(const std::function<OutputSink(int prompt)>& make_sink);

  // The engine's output for a prompt, in order.
  void OnOutput(int prompt, EngineOutput& output);

  // The client is gone: ends the engine's work, and the sink is not touched again.
  void Abandon();

  // Ends the answer with an error, as the server shuts down.
  void FailWith(const ApiError& error);

  // Nothing more will be sent.
  bool done() const { return sink_ == nullptr; }

 private:
  struct PromptState {
    RequestId id = 0;
    int32_t first_token = -1;        // of the prompt
    std::vector<int32_t> token_ids;  // of the prompt, where they are asked for
    bool finished = false;
    Usage usage;
    std::vector<PositionEntry> logprobs;  // of the prompt
  };

  int ChoiceIndex(int prompt, int index) const;
  Usage TotalUsage() const;
  ResponseChoice BeginChoice(int prompt, int index) const;
  void LeaveOutSpecial(std::vector<PositionEntry>* positions) const;
  void Collect(int prompt, ChoiceDelta& delta);
  bool StreamDelta(int prompt, ChoiceDelta& delta);
  void Finish();
  void CancelEngine();
  void Summarize();

  std::unique_ptr<PreparedGeneration> prepared_;
  ResponseSink* sink_;
  int choices_per_prompt_;
  TimePoint arrival_;
  std::optional<ChunkWriter> chunks_;
  std::vector<PromptState> prompts_;
  std::vector<ResponseChoice> choices_;  // what came so far; streaming keeps only the state
  std::vector<bool> started_;            // a choice's first output came
  std::vector<int64_t> text_offsets_;    // streaming
  bool stream_begun_ = false;
  TimePoint first_token_{};
  std::string finish_reason_;
};

}  // namespace dualfp
