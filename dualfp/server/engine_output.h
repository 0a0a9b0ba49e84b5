// A RequestOutput that outlives the engine's call: the same data, owned.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "dualfp/engine/request.h"

namespace dualfp {

struct LogprobEntry {
  int32_t token_id = -1;
  float logprob = 0.0f;
  int32_t rank = 0;
  std::string bytes;
};

struct PositionEntry {
  LogprobEntry chosen;
  bool has_logprob = true;  // false: the first prompt token
  // How many characters of the answer's text it stands for; absent: those that begin in its bytes.
  std::optional<int64_t> characters;
  std::vector<LogprobEntry> top;
};

struct ChoiceDelta {
  int index = 0;
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<PositionEntry> logprobs;
  FinishReason finish_reason = FinishReason::kNone;
  std::variant<std::monostate, int32_t, std::string> stop_reason;
};

struct EngineOutput {
  uint64_t tag = 0;  // the submitter's
  std::vector<ChoiceDelta> choices;
  std::vector<PositionEntry> prompt_logprobs;
  bool finished = false;
  std::string error;
  Usage usage;
  RequestTiming timing;

  // Copies `output`, reusing the memory that this object already has.
  void Assign(uint64_t new_tag, const RequestOutput& output);
};

}  // namespace dualfp
