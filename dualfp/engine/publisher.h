// What is new for a request, as a RequestOutput handed to its sink. Keeps the memory behind the
// output's views from step to step.

#pragma once

#include <string>
#include <vector>

#include "dualfp/engine/sequence.h"
#include "dualfp/engine/vocabulary.h"

namespace dualfp {

class Publisher {
 public:
  // `vocabulary` may be null.
  explicit Publisher(const Vocabulary* vocabulary) : vocabulary_(vocabulary) {}

  // Calls the request's sink and marks everything as published. A sink that throws is logged.
  void Publish(RequestState* request);

 private:
  // Begin and number of a position's or a choice's entries in a list below, which may still grow.
  struct Range {
    size_t begin = 0;
    size_t count = 0;
  };

  void Clear();
  void AddPosition(std::span<const ScoredToken> scores);
  void AddToken(const ScoredToken& score);
  void Resolve();

  const Vocabulary* vocabulary_;
  std::string bytes_;
  std::vector<TokenLogprob> tokens_;
  std::vector<Range> token_bytes_;
  std::vector<PositionLogprobs> positions_;
  std::vector<Range> position_tokens_;
  std::vector<ChoiceOutput> choices_;
  std::vector<Range> choice_positions_;
};

}  // namespace dualfp
