#include "dualfp/engine/publisher.h"

#include <exception>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"

namespace dualfp {

void Publisher::Clear() {
  bytes_.clear();
  tokens_.clear();
  token_bytes_.clear();
  positions_.clear();
  position_tokens_.clear();
  choices_.clear();
  choice_positions_.clear();
}

void Publisher::AddToken(const ScoredToken& score) {
  const size_t begin = bytes_.size();
  if (vocabulary_ != nullptr && score.token_id >= 0) {
    vocabulary_->AppendTokenBytes(score.token_id, &bytes_);
  }
  tokens_.push_back({score.token_id, score.logprob, score.rank, {}});
  token_bytes_.push_back({begin, bytes_.size() - begin});
}

void Publisher::AddPosition(std::span<const ScoredToken> scores) {
  position_tokens_.push_back({tokens_.size(), scores.size()});
  positions_.emplace_back();
  for (const ScoredToken& score : scores) {
    AddToken(score);
  }
}

void Publisher::Resolve() {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    tokens_[i].bytes = {bytes_.data() + token_bytes_[i].begin, token_bytes_[i].count};
  }
  for (size_t i = 0; i < positions_.size(); ++i) {
    const Range& range = position_tokens_[i];
    positions_[i].chosen = tokens_[range.begin];
    positions_[i].top = std::span(tokens_).subspan(range.begin + 1, range.count - 1);
  }
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Range& range = choice_positions_[i];
    choices_[i].logprobs = std::span(positions_).subspan(range.begin, range.count);
  }
}

void Publisher::Publish(RequestState* request) {
  Clear();
  size_t prompt_positions = 0;
  // With the first token, or with an end before it.
  if (request->scores_per_prompt_token > 0 && !request->prompt_scores_published &&
      std::ssize(request->prompt_scores) ==
          (request->prompt_size() - 1) * request->scores_per_prompt_token) {
    request->prompt_scores_published = true;
    const ScoredToken none;
    AddPosition({&none, 1});
    const size_t each = request->scores_per_prompt_token;
    for (size_t at = 0; at < request->prompt_scores.size(); at += each) {
      AddPosition(std::span(request->prompt_scores).subspan(at, each));
    }
    prompt_positions = positions_.size();
  }
  for (Sequence& sequence : request->choices) {
    if (!sequence.touched) {
      continue;
    }
    choice_positions_.push_back({positions_.size(), 0});
    const size_t each = request->scores_per_token;
    for (size_t at = 0; at < sequence.new_scores.size(); at += each) {
      AddPosition(std::span(sequence.new_scores).subspan(at, each));
    }
    choice_positions_.back().count = positions_.size() - choice_positions_.back().begin;
    choices_.push_back({sequence.choice,
                        sequence.new_text,
                        std::span(sequence.output).subspan(sequence.num_published),
                        {},
                        sequence.finish_reason,
                        sequence.stop_reason});
  }
  Resolve();

  RequestOutput output;
  output.id = request->id;
  output.choices = choices_;
  output.prompt_logprobs = std::span(positions_).first(prompt_positions);
  output.finished = request->num_unfinished == 0;
  output.error = request->error;
  output.usage = request->usage;
  output.timing = request->timing;
  try {
    request->sink(output);
  } catch (const std::exception& error) {
    LogWarning(StrCat("the sink of request ", request->id, " threw: ", error.what()));
  }

  request->touched = false;
  for (Sequence& sequence : request->choices) {
    sequence.touched = false;
    sequence.num_published = static_cast<int64_t>(sequence.output.size());
    sequence.new_text.clear();
    sequence.new_scores.clear();
  }
}

}  // namespace dualfp
