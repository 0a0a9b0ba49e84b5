#include "dualfp/server/engine_output.h"

namespace dualfp {
namespace {

void AssignEntry(const TokenLogprob& from, LogprobEntry* to) {
  to->token_id = from.token_id;
  to->logprob = from.logprob;
  to->rank = from.rank;
  to->bytes.assign(from.bytes);
}

void AssignPositions(std::span<const PositionLogprobs> from, std::vector<PositionEntry>* to) {
  to->resize(from.size());
  for (size_t i = 0; i < from.size(); ++i) {
    PositionEntry& entry = (*to)[i];
    AssignEntry(from[i].chosen, &entry.chosen);
    entry.has_logprob = from[i].chosen.token_id >= 0;
    entry.top.resize(from[i].top.size());
    for (size_t j = 0; j < from[i].top.size(); ++j) {
      AssignEntry(from[i].top[j], &entry.top[j]);
    }
  }
}

}  // namespace

void EngineOutput::Assign(uint64_t new_tag, const RequestOutput& output) {
  tag = new_tag;
  choices.resize(output.choices.size());
  for (size_t i = 0; i < output.choices.size(); ++i) {
    const ChoiceOutput& from = output.choices[i];
    ChoiceDelta& to = choices[i];
    to.index = from.index;
    to.text.assign(from.text);
    to.token_ids.assign(from.token_ids.begin(), from.token_ids.end());
    AssignPositions(from.logprobs, &to.logprobs);
    to.finish_reason = from.finish_reason;
    to.stop_reason = std::monostate();
    if (const auto* id = std::get_if<int32_t>(&from.stop_reason)) {
      to.stop_reason = *id;
    } else if (const auto* text = std::get_if<std::string_view>(&from.stop_reason)) {
      to.stop_reason = std::string(*text);
    }
  }
  AssignPositions(output.prompt_logprobs, &prompt_logprobs);
  finished = output.finished;
  error.assign(output.error);
  usage = output.usage;
  timing = output.timing;
}

}  // namespace dualfp
