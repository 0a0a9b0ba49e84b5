// What a caller asks of the engine and what it gets back. Plain data; no JSON, no sockets.

#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace dualfp {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
using RequestId = uint64_t;

// How the next token is drawn. Names, defaults, ranges and order of operations are vLLM's:
// min_tokens, logit_bias, penalties, temperature, min_p, top_k, top_p, draw (kernels/sample.h).
struct SamplingParams {
  int n = 1;  // choices drawn from one prompt

  // Nothing: until the context (max_model_len) is full.
  std::optional<int64_t> max_tokens;
  int64_t min_tokens = 0;  // before which neither EOS nor stop ids nor stop strings end a choice

  float temperature = 1.0f;         // >= 0; below 1e-5 the most likely token is taken
  float top_p = 1.0f;               // (0, 1]
  int64_t top_k = 0;                // 0 or -1: all
  float min_p = 0.0f;               // [0, 1]
  float presence_penalty = 0.0f;    // [-2, 2]
  float frequency_penalty = 0.0f;   // [-2, 2]
  float repetition_penalty = 1.0f;  // > 0
  std::vector<std::pair<int32_t, float>> logit_bias;  // token, [-100, 100]; ids are distinct

  // The same seed and request give the same tokens whatever else is in the batch, at one
  // precision. Without a seed the engine draws one.
  std::optional<uint64_t> seed;

  std::vector<std::string> stop;  // not empty strings; UTF-8
  std::vector<int32_t> stop_token_ids;
  bool include_stop_str_in_output = false;
  bool ignore_eos = false;
  bool skip_special_tokens = true;

  // Alternatives reported at each position besides the chosen token itself; nothing: no logprobs.
  // They are of the model's raw logits, before penalties and temperature (vLLM's raw_logprobs).
  std::optional<int> logprobs;
  std::optional<int> prompt_logprobs;
};

// kExact, kFp8: all layers of the request's rows, whatever its neighbours in a step compute at.
// kAuto: whatever the engine's precision is.
enum class PrecisionPin : uint8_t { kAuto, kExact, kFp8 };

struct Request {
  std::vector<int32_t> prompt;  // at least one token
  SamplingParams sampling;
  PrecisionPin precision = PrecisionPin::kAuto;

  int priority = 0;  // lower runs earlier, as in vLLM; ties by arrival

  // Seconds; what the SLO-slack policy steers by. 0: EngineConfig's default, or none there.
  double ttft_target = 0.0;
  double tpot_target = 0.0;

  // Requests share cached prefixes only where their salts are equal.
  std::string cache_salt;

  TimePoint arrival = Clock::now();  // when the caller received it; queue time counts from here
};

enum class FinishReason : uint8_t {
  kNone,    // not finished
  kStop,    // EOS, a stop id or a stop string
  kLength,  // max_tokens or the context is full
  kAbort,   // cancelled, or the engine shut down
  kError,   // the step failed; RequestOutput::error says how
};

// "stop", "length", "abort", "error"; empty for kNone.
std::string_view FinishReasonName(FinishReason reason);

struct TokenLogprob {
  int32_t token_id = -1;
  float logprob = 0.0f;
  int32_t rank = 0;        // 1 = most likely; ties count as ahead
  std::string_view bytes;  // the token's own bytes, possibly half a character; empty without text
};

struct PositionLogprobs {
  TokenLogprob chosen;                // token_id < 0 for the first prompt token, which has none
  std::span<const TokenLogprob> top;  // most likely first; may or may not contain `chosen`
};

// At which precision a token was computed. kMixed: layers differed.
enum class PrecisionClass : uint8_t { kExact, kFp8, kFp4, kMixed };
constexpr int kNumPrecisionClasses = 4;
using TokensByPrecision = std::array<int64_t, kNumPrecisionClasses>;

// "exact", "fp8", "fp4", "mixed": label values of /metrics and keys of usage.
std::string_view PrecisionClassName(PrecisionClass precision);

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;      // prompt tokens found in the prefix cache
  int64_t completion_tokens = 0;  // over all choices
  // Prompt tokens by the precision of the step that computed them (sum = prompt - cached), and
  // completion tokens by the precision of the step that produced them (sum = completion). Work
  // repeated after a preemption is not counted again.
  TokensByPrecision prompt_by_precision{};
  TokensByPrecision completion_by_precision{};
};

// Unset stamps are TimePoint{}.
struct RequestTiming {
  TimePoint arrival;
  TimePoint first_scheduled;
  TimePoint first_token;
  TimePoint last_token;
};

// Monostate: EOS, or not kStop. Otherwise the stop id or stop string that ended the choice.
using StopReason = std::variant<std::monostate, int32_t, std::string_view>;

// What is new for one choice since the last output.
struct ChoiceOutput {
  int index = 0;
  // Whole UTF-8 characters. May lag behind the tokens: bytes of an unfinished character and text
  // that could be the beginning of a stop string are held back until they are decided.
  std::string_view text;
  std::span<const int32_t> token_ids;          // including the stop token, if one ended it
  std::span<const PositionLogprobs> logprobs;  // one for each of token_ids, if asked for
  FinishReason finish_reason = FinishReason::kNone;
  StopReason stop_reason;
};

// Handed to the sink after each step that brought something for the request. All views are the
// engine's and end with the call: copy what must live longer.
struct RequestOutput {
  RequestId id = 0;
  std::span<const ChoiceOutput> choices;  // those with something new, by ascending index

  // One for each prompt token; in the first output only, if asked for.
  std::span<const PositionLogprobs> prompt_logprobs;

  // Exactly one output of a request has this set, and it is the last. Every choice has had its
  // finish_reason by then.
  bool finished = false;
  std::string_view error;  // why, for kError

  Usage usage;  // so far
  RequestTiming timing;
};

// Runs on the engine's thread between two steps: it must not block, throw, or call the engine
// (Cancel excepted). A server posts the copied output to its own queue.
using OutputSink = std::function<void(const RequestOutput&)>;

}  // namespace dualfp
