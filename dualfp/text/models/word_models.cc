#include "dualfp/text/models/word_models.h"

#include "dualfp/base/check.h"
#include "dualfp/text/pipeline/byte_alphabet.h"
#include "dualfp/text/unicode.h"

namespace dualfp {

WordModel::WordModel(const JsonFields& fields, bool byte_level, std::string_view default_unk_token)
    : byte_level_(byte_level) {
  LoadVocabulary(fields);
  unk_id_ =
      vocabulary_.Find(fields.FindString("unk_token").value_or(std::string(default_unk_token)));
}

std::unique_ptr<ModelScratch> WordModel::NewScratch() const {
  return std::make_unique<ModelScratch>();
}

void WordModel::Encode(std::string_view word, ModelScratch*, std::vector<int32_t>* out) const {
  std::string alphabet;
  if (byte_level_) {
    alphabet = BytesToAlphabet(word);
    word = alphabet;
  }
  if (!EncodeKnown(word, out)) {
    Check(unk_id_.has_value(), ErrorCode::kInvalidArgument, "the text has the word ",
          QuoteForMessage(word), ", which has no token, and the tokenizer has no unknown token");
    out->push_back(*unk_id_);
  }
}

WordPieceModel::WordPieceModel(const JsonFields& fields, bool byte_level)
    : WordModel(fields, byte_level, "[UNK]"),
      max_word_characters_(static_cast<size_t>(
          fields.FindInt("max_input_chars_per_word", 0, INT64_MAX).value_or(100))) {
  const std::string prefix = fields.FindString("continuing_subword_prefix").value_or("##");
  vocabulary_.ForEach([&](std::string_view token, int32_t id) {
    first_.Add(token, id);
    if (token.starts_with(prefix)) {
      continuing_.Add(token.substr(prefix.size()), id);
    }
  });
}

bool WordPieceModel::EncodeKnown(std::string_view word, std::vector<int32_t>* out) const {
  if (CountCodePoints(word) > max_word_characters_) {
    return false;
  }
  const size_t before = out->size();
  for (size_t begin = 0; begin < word.size();) {
    size_t size = 0;
    const TokenTrie& tokens = begin > 0 ? continuing_ : first_;
    const std::optional<int32_t> id = tokens.LongestPrefix(word.substr(begin), &size);
    if (!id) {
      out->resize(before);
      return false;
    }
    out->push_back(*id);
    begin += size;
  }
  return true;
}

WordLevelModel::WordLevelModel(const JsonFields& fields, bool byte_level)
    : WordModel(fields, byte_level, "<unk>") {}

bool WordLevelModel::EncodeKnown(std::string_view word, std::vector<int32_t>* out) const {
  const std::optional<int32_t> id = vocabulary_.Find(word);
  if (id) {
    out->push_back(*id);
  }
  return id.has_value();
}

}  // namespace dualfp
