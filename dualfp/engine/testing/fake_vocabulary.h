// A small vocabulary for tests: token i is entry i of a list of byte strings.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dualfp/engine/vocabulary.h"

namespace dualfp::testing {

class FakeVocabulary : public Vocabulary {
 public:
  explicit FakeVocabulary(std::vector<std::string> tokens) : tokens_(std::move(tokens)) {}

  // 96 tokens: printable ASCII from space to '~', and "é" of two bytes as the last.
  static std::shared_ptr<const FakeVocabulary> Ascii();

  std::unique_ptr<TextStream> NewStream(std::span<const int32_t> prompt,
                                        bool skip_special_tokens) const override;
  void AppendTokenBytes(int32_t token, std::string* out) const override {
    out->append(tokens_[token]);
  }

 private:
  std::vector<std::string> tokens_;
};

}  // namespace dualfp::testing
