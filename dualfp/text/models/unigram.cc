#include "dualfp/text/models/unigram.h"

#include <algorithm>
#include <limits>

#include "dualfp/base/check.h"
#include "dualfp/text/pipeline/byte_alphabet.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

// How much worse than the worst token an unknown character is (SentencePiece's kUnkPenalty).
constexpr double kUnknownPenalty = 10.0;

// The best cut of a word up to some byte.
struct BestPath {
  double score = 0;
  int32_t last_id = -1;  // of the last token
  ptrdiff_t begin = -1;  // where the last token begins; -1: no path ends here yet
};

struct Piece {
  size_t begin;
  size_t end;
  bool is_unknown;
};

}  // namespace

class UnigramModel::Scratch final : public ModelScratch {
 public:
  std::vector<BestPath> paths;  // by the byte at which they end
  std::vector<Piece> pieces;    // of the best path, the last one first
  std::string alphabet;
};

UnigramModel::UnigramModel(const JsonFields& fields, bool byte_level) : byte_level_(byte_level) {
  const Json* vocab = fields.FindRaw("vocab");
  if (vocab == nullptr || !vocab->is_array()) {
    fields.FailExpected("vocab", "an array of tokens and their scores");
  }
  vocabulary_.Reserve(vocab->size());
  scores_.reserve(vocab->size());
  double lowest = std::numeric_limits<double>::infinity();
  for (const Json& entry : *vocab) {
    const auto id = static_cast<int32_t>(scores_.size());
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      fields.FailField(StrCat("vocab[", id, "]"), "expected a token and its score");
    }
    const std::string& token = entry[0].get_ref<const std::string&>();
    vocabulary_.Add(token, id);
    trie_.Add(token, id);
    scores_.push_back(entry[1].get<double>());
    lowest = std::min(lowest, scores_.back());
  }
  unknown_score_ = lowest - kUnknownPenalty;
  if (const std::optional<int64_t> unk = fields.FindInt("unk_id", 0, INT32_MAX)) {
    if (*unk >= static_cast<int64_t>(scores_.size())) {
      fields.FailField("unk_id", StrCat("expected the id of one of the ", scores_.size(),
                                        " tokens, got ", *unk));
    }
    unk_id_ = static_cast<int32_t>(*unk);
  }
  if (fields.FindBool("byte_fallback").value_or(false)) {
    byte_fallback_.emplace(vocabulary_);
  }
}

std::unique_ptr<ModelScratch> UnigramModel::NewScratch() const {
  return std::make_unique<Scratch>();
}

void UnigramModel::Encode(std::string_view word, ModelScratch* scratch,
                          std::vector<int32_t>* out) const {
  auto& [paths, pieces, alphabet] = static_cast<Scratch&>(*scratch);
  if (byte_level_) {
    alphabet = BytesToAlphabet(word);
    word = alphabet;
  }
  paths.assign(word.size() + 1, BestPath{});
  const auto offer = [&](size_t begin, size_t end, double score, int32_t id) {
    BestPath& path = paths[end];
    if (path.begin < 0 || score > path.score) {
      path = {score, id, static_cast<ptrdiff_t>(begin)};
    }
  };
  for (size_t begin = 0; begin < word.size();) {
    const auto character = static_cast<size_t>(Utf8Length(word[begin]));
    const double score = paths[begin].score;
    bool character_has_token = false;
    trie_.ForEachPrefix(word.substr(begin), [&](size_t size, int32_t id) {
      offer(begin, begin + size, scores_[static_cast<size_t>(id)] + score, id);
      character_has_token = character_has_token || size == character;
    });
    if (!character_has_token) {
      Check(unk_id_.has_value(), ErrorCode::kInvalidArgument, "the text has the character ",
            QuoteForMessage(word.substr(begin, character)),
            ", which is in no token, and the tokenizer has no unknown token");
      offer(begin, begin + character, unknown_score_ + score, *unk_id_);
    }
    begin += character;
  }
  // Unknown characters next to each other are one token.
  pieces.clear();
  for (size_t end = word.size(); end > 0;) {
    const BestPath& path = paths[end];
    const auto begin = static_cast<size_t>(path.begin);
    const bool is_unknown = path.last_id == unk_id_;
    if (is_unknown && !pieces.empty() && pieces.back().is_unknown) {
      pieces.back().begin = begin;
    } else {
      pieces.push_back({begin, end, is_unknown});
    }
    end = begin;
  }
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
    AppendToken(word.substr(piece->begin, piece->end - piece->begin), out);
  }
}

// A piece of unknown characters may be a token as a whole, and the text of the unknown token itself
// is like any unknown text.
void UnigramModel::AppendToken(std::string_view piece, std::vector<int32_t>* out) const {
  if (const std::optional<int32_t> id = vocabulary_.Find(piece)) {
    out->push_back(*id);
  } else if (!byte_fallback_ || !byte_fallback_->Append(piece, out)) {
    out->push_back(*unk_id_);
  }
}

}  // namespace dualfp
