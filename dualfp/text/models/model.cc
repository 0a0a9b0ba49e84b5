#include "dualfp/text/models/model.h"

#include "dualfp/base/check.h"
#include "dualfp/text/models/bpe.h"
#include "dualfp/text/models/unigram.h"
#include "dualfp/text/models/word_models.h"

namespace dualfp {
namespace {

// A file of a few bytes must not make us allocate gigabytes.
int64_t MaxId(size_t tokens) { return static_cast<int64_t>(tokens) * 4 + 1'000'000; }

// Files of before 2020 have no type; their fields then tell what they are.
std::string TypeOf(const JsonFields& fields) {
  if (const std::optional<std::string> type = fields.FindString("type")) {
    return *type;
  }
  const Json* vocab = fields.FindRaw("vocab");
  if (vocab != nullptr && vocab->is_array()) {
    return "Unigram";
  }
  return fields.Has("merges")                      ? "BPE"
         : fields.Has("continuing_subword_prefix") ? "WordPiece"
                                                   : "WordLevel";
}

}  // namespace

void TokenModel::LoadVocabulary(const JsonFields& fields) {
  const Json& vocab = fields.GetObject("vocab").json();
  const int64_t max_id = MaxId(vocab.size());
  vocabulary_.Reserve(vocab.size());
  for (const auto& [token, id] : vocab.get_ref<const Json::object_t&>()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > max_id) {
      fields.FailField(
          StrCat("vocab[", QuoteForMessage(token), "]"),
          StrCat("expected an id in [0, ", max_id, "], got ", QuoteForMessage(id.dump())));
    }
    vocabulary_.Add(token, id.get<int32_t>());
  }
}

std::unique_ptr<const TokenModel> MakeModel(const JsonFields& fields, bool byte_level) {
  const std::string type = TypeOf(fields);
  if (type == "BPE") return std::make_unique<BpeModel>(fields, byte_level);
  if (type == "Unigram") return std::make_unique<UnigramModel>(fields, byte_level);
  if (type == "WordPiece") return std::make_unique<WordPieceModel>(fields, byte_level);
  if (type == "WordLevel") return std::make_unique<WordLevelModel>(fields, byte_level);
  fields.FailUnsupported("type", StrCat("unknown tokenizer model ", QuoteForMessage(type),
                                        "; dualfp reads \"BPE\", \"Unigram\", \"WordPiece\" and "
                                        "\"WordLevel\""));
}

ByteFallback::ByteFallback(const VocabularyTable& vocabulary) {
  for (size_t byte = 0; byte < ids_.size(); ++byte) {
    constexpr char kHex[] = "0123456789ABCDEF";
    const char token[] = {'<', '0', 'x', kHex[byte >> 4], kHex[byte & 15], '>'};
    ids_[byte] = vocabulary.Find({token, sizeof(token)}).value_or(-1);
  }
}

bool ByteFallback::Append(std::string_view bytes, std::vector<int32_t>* ids) const {
  const size_t before = ids->size();
  for (const char byte : bytes) {
    const int32_t id = ids_[static_cast<uint8_t>(byte)];
    if (id < 0) {
      ids->resize(before);
      return false;
    }
    ids->push_back(id);
  }
  return true;
}

}  // namespace dualfp
