// The models that look words up: WordPiece (BERT), which takes the longest token at every place,
// and WordLevel, for which a word is a token. As tokenizer.json describes them, with Hugging Face
// tokenizers' semantics.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "dualfp/text/models/model.h"
#include "dualfp/text/models/token_trie.h"

namespace dualfp {

// What the two share: a vocabulary, and an unknown token for words that it does not cover.
class WordModel : public TokenModel {
 public:
  std::unique_ptr<ModelScratch> NewScratch() const override;
  void Encode(std::string_view word, ModelScratch* scratch,
              std::vector<int32_t>* out) const override;

 protected:
  // `byte_level`: words are bytes, to be read in GPT-2's alphabet.
  WordModel(const JsonFields& fields, bool byte_level, std::string_view default_unk_token);

  // Appends the tokens of the word; false, and nothing appended, when it is unknown.
  virtual bool EncodeKnown(std::string_view word, std::vector<int32_t>* out) const = 0;

 private:
  bool byte_level_;
  std::optional<int32_t> unk_id_;
};

class WordPieceModel final : public WordModel {
 public:
  WordPieceModel(const JsonFields& fields, bool byte_level);

 protected:
  bool EncodeKnown(std::string_view word, std::vector<int32_t>* out) const override;

 private:
  TokenTrie first_;             // the tokens that may start a word
  TokenTrie continuing_;        // those that may not, without their prefix
  size_t max_word_characters_;  // a longer word is unknown
};

class WordLevelModel final : public WordModel {
 public:
  WordLevelModel(const JsonFields& fields, bool byte_level);

 protected:
  bool EncodeKnown(std::string_view word, std::vector<int32_t>* out) const override;
};

}  // namespace dualfp
