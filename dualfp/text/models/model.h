// The "model" of tokenizer.json: what cuts a word into tokens.

#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/text/models/vocabulary.h"

namespace dualfp {

// What encoding words needs besides the model; one thread's at a time, and of that model only.
class ModelScratch {
 public:
  virtual ~ModelScratch() = default;
};

class TokenModel {
 public:
  virtual ~TokenModel() = default;

  virtual std::unique_ptr<ModelScratch> NewScratch() const = 0;

  // Appends the tokens of one word, which is valid UTF-8. `scratch` is from NewScratch(). Throws
  // kInvalidArgument for a word that has no token where the model has no unknown token.
  virtual void Encode(std::string_view word, ModelScratch* scratch,
                      std::vector<int32_t>* out) const = 0;

  const VocabularyTable& vocabulary() const { return vocabulary_; }

 protected:
  // Fills the vocabulary from {"token": id, ...} in the field "vocab". Ids index arrays: those far
  // above the number of tokens are refused.
  void LoadVocabulary(const JsonFields& fields);

  VocabularyTable vocabulary_;
};

// Known: BPE, Unigram, WordPiece, WordLevel. `byte_level`: words are bytes, to be read in GPT-2's
// alphabet. Throws kUnsupported for another type, naming it, and kInvalidFile naming the field of
// what is inconsistent.
std::unique_ptr<const TokenModel> MakeModel(const JsonFields& fields, bool byte_level);

// The tokens <0x00> to <0xFF> that stand for the bytes of characters without a token.
class ByteFallback {
 public:
  explicit ByteFallback(const VocabularyTable& vocabulary);

  // Appends the tokens of all bytes; false, and nothing appended, when one of them has none.
  bool Append(std::string_view bytes, std::vector<int32_t>* ids) const;

 private:
  std::array<int32_t, 256> ids_;  // -1: none
};

}  // namespace dualfp
