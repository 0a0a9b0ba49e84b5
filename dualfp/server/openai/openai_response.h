// What clients get, from plain data to JSON. Pure functions.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/server/engine_output.h"

namespace dualfp {

enum class ResponseKind : uint8_t { kCompletion, kChat };

struct ResponseHead {
  ResponseKind kind = ResponseKind::kCompletion;
  std::string id;       // "cmpl-..." or "chatcmpl-..."
  int64_t created = 0;  // seconds since 1970
  std::string model;
};

// A choice with everything that came for it.
struct ResponseChoice {
  int index = 0;
  std::string text;
  std::vector<int32_t> token_ids;         // of the answer
  std::vector<int32_t> prompt_token_ids;  // a chunk: of the choice's first only
  std::vector<PositionEntry> logprobs;
  FinishReason finish_reason = FinishReason::kNone;
  std::variant<std::monostate, int32_t, std::string> stop_reason;
};

struct ResponseOptions {
  bool logprobs = false;
  int top_logprobs = 0;
  bool prompt_logprobs = false;
  bool token_ids = false;  // with those of the prompt
};

// The answer to a request that does not stream. `prompt_logprobs` holds an entry per prompt.
std::string WriteResponse(const ResponseHead& head, const ResponseOptions& options,
                          const std::vector<ResponseChoice>& choices, const Usage& usage,
                          const std::vector<std::vector<PositionEntry>>& prompt_logprobs);

// The chunks of a stream, each as a whole server-sent event: "data: {...}\n\n".
class ChunkWriter {
 public:
  // `usage_field`: chunks carry "usage", null but for the last, as OpenAI's include_usage asks.
  ChunkWriter(const ResponseHead& head, const ResponseOptions& options, bool usage_field);

  // What is new for one choice. `first`: nothing of this choice was sent yet. `usage`: so far, or
  // null. `text_offset` counts characters of the choice and is moved on.
  void AppendDelta(const ResponseChoice& delta, bool first, const Usage* usage,
                   int64_t* text_offset, std::string* out) const;

  // The chunk without choices that carries the usage.
  void AppendUsage(const Usage& usage, std::string* out) const;

 private:
  ResponseKind kind_;
  ResponseOptions options_;
  bool usage_field_;
  std::string head_;  // up to and including "choices":[
};

// {"error": ...} as an event.
void AppendErrorEvent(std::string_view error_json, std::string* out);
// "data: [DONE]\n\n"
void AppendDoneEvent(std::string* out);

// Characters that begin in these bytes: adds up to the right sum over tokens that split one.
int64_t CountCharacters(std::string_view bytes);

// A token's text as JSON can carry it: what is not UTF-8 becomes "bytes:\xe2\x80", OpenAI's way.
std::string TokenText(std::string_view bytes);

}  // namespace dualfp
