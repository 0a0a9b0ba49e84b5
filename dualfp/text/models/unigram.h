// The unigram language model (Kudo, arXiv 1804.10959; SentencePiece) as tokenizer.json's "model" of
// type Unigram describes it, with Hugging Face tokenizers' semantics: of all ways to cut a word
// into tokens, the one with the largest sum of scores.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/text/models/model.h"
#include "dualfp/text/models/token_trie.h"

namespace dualfp {

class UnigramModel final : public TokenModel {
 public:
  // `byte_level`: words are bytes, to be read in GPT-2's alphabet.
  UnigramModel(const JsonFields& fields, bool byte_level);

  std::unique_ptr<ModelScratch> NewScratch() const override;
  void Encode(std::string_view word, ModelScratch* scratch,
              std::vector<int32_t>* out) const override;

 private:
  class Scratch;

  void AppendToken(std::string_view piece, std::vector<int32_t>* out) const;

  bool byte_level_;
  TokenTrie trie_;              // values index scores_
  std::vector<double> scores_;  // by id
  double unknown_score_ = 0;    // of a character without a token
  std::optional<int32_t> unk_id_;
  std::optional<ByteFallback> byte_fallback_;
};

}  // namespace dualfp
