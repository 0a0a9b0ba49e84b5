#include "dualfp/engine/testing/fake_vocabulary.h"

namespace dualfp::testing {
namespace {

// Bytes that the character beginning with `lead` has.
size_t CharacterSize(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

class FakeStream : public TextStream {
 public:
  explicit FakeStream(const std::vector<std::string>* tokens) : tokens_(tokens) {}

  void Append(int32_t token, std::string* out) override {
    pending_ += (*tokens_)[token];
    size_t whole = 0;
    while (whole < pending_.size() && whole + CharacterSize(pending_[whole]) <= pending_.size()) {
      whole += CharacterSize(pending_[whole]);
    }
    out->append(pending_, 0, whole);
    pending_.erase(0, whole);
  }

  void Finish(std::string* out) override {
    if (!pending_.empty()) {
      out->append("\xEF\xBF\xBD");
      pending_.clear();
    }
  }

 private:
  const std::vector<std::string>* tokens_;
  std::string pending_;
};

}  // namespace

std::shared_ptr<const FakeVocabulary> FakeVocabulary::Ascii() {
  std::vector<std::string> tokens;
  for (char byte = ' '; byte <= '~'; ++byte) {
    tokens.emplace_back(1, byte);
  }
  tokens.emplace_back("\xC3\xA9");
  return std::make_shared<FakeVocabulary>(std::move(tokens));
}

std::unique_ptr<TextStream> FakeVocabulary::NewStream(std::span<const int32_t> /*prompt*/,
                                                      bool /*skip_special_tokens*/) const {
  return std::make_unique<FakeStream>(&tokens_);
}

}  // namespace dualfp::testing
