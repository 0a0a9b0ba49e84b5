#include "dualfp/text/pipeline/pretokenizer.h"

#include <algorithm>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/text/pipeline/byte_alphabet.h"
#include "dualfp/text/pipeline/normalizer.h"
#include "dualfp/text/unicode.h"
#include "dualfp/text/unicode_script.h"

namespace dualfp {
namespace {

// What becomes of the matches of a splitting pattern.
enum class SplitBehavior {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,
};

SplitBehavior ParseBehavior(const JsonFields& fields, std::string_view key) {
  const std::string name = fields.GetString(key);
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  fields.FailUnsupported(key, StrCat("unknown split behavior ", QuoteForMessage(name)));
}

char32_t ParseCharacter(const JsonFields& fields, std::string_view key) {
  const std::string text = fields.GetString(key);
  if (CountCodePoints(text) != 1) {
    fields.FailExpected(key, "one character");
  }
  size_t position = 0;
  return DecodeUtf8(text, &position);
}

// Cuts one piece: fed with the matches from left to right, it appends the resulting pieces.
class PieceCutter {
 public:
  PieceCutter(const PieceList::Piece& piece, SplitBehavior behavior, bool invert,
              std::vector<PieceList::Piece>* out)
      : piece_(piece), behavior_(behavior), invert_(invert), out_(out), first_(out->size()) {}

  void AddMatch(size_t begin, size_t end) {
    if (begin > covered_) {
      AddSection(covered_, begin, false);
    }
    AddSection(begin, end, true);
    covered_ = end;
  }

  void Finish() {
    const size_t size = piece_.end - piece_.begin;
    if (covered_ < size) {
      AddSection(covered_, size, false);
    }
    // Nobody needs empty pieces, but an empty match still separates its neighbours.
    out_->erase(std::remove_if(out_->begin() + static_cast<std::ptrdiff_t>(first_), out_->end(),
                               [](const PieceList::Piece& p) { return p.begin == p.end; }),
                out_->end());
  }

 private:
  void AddSection(size_t begin, size_t end, bool is_match) {
    is_match = is_match != invert_;
    const bool has_section = out_->size() > first_;
    bool extend = false;
    switch (behavior_) {
      case SplitBehavior::kIsolated:
        break;
      case SplitBehavior::kRemoved:
        if (is_match) {
          return;
        }
        break;
      case SplitBehavior::kContiguous:
        extend = has_section && is_match == previous_is_match_;
        break;
      case SplitBehavior::kMergedWithPrevious:
        extend = has_section && is_match && !previous_is_match_;
        break;
      case SplitBehavior::kMergedWithNext:
        // Of a run of matches only the last joins what follows.
        extend = has_section && !is_match && previous_is_match_;
        break;
    }
    previous_is_match_ = is_match;
    if (extend) {
      out_->back().end = piece_.begin + end;
    } else {
      out_->push_back({piece_.begin + begin, piece_.begin + end, piece_.from_origin && begin == 0});
    }
  }

  const PieceList::Piece& piece_;
  const SplitBehavior behavior_;
  const bool invert_;
  std::vector<PieceList::Piece>* out_;
  const size_t first_;
  size_t covered_ = 0;
  bool previous_is_match_ = false;
};

// for_each_match(piece text, visit(begin, end)).
template <typename ForEachMatch>
void SplitPieces(PieceList* list, SplitBehavior behavior, bool invert,
                 ForEachMatch for_each_match) {
  std::vector<PieceList::Piece> out;
  out.reserve(list->text.size() / 4 + list->pieces.size());
  for (const PieceList::Piece& piece : list->pieces) {
    PieceCutter cutter(piece, behavior, invert, &out);
    for_each_match(list->Text(piece),
                   [&](size_t begin, size_t end) { cutter.AddMatch(begin, end); });
    cutter.Finish();
  }
  list->pieces = std::move(out);
}

// Matches are the single characters for which `is_match` holds.
template <typename IsMatch>
void SplitAtCharacters(PieceList* list, SplitBehavior behavior, IsMatch is_match) {
  SplitPieces(list, behavior, false, [&](std::string_view text, auto visit) {
    for (size_t i = 0; i < text.size();) {
      const size_t begin = i;
      if (is_match(DecodeUtf8(text, &i))) {
        visit(begin, i);
      }
    }
  });
}

// Rebuilds the text piece by piece: rewrite(piece text, from_origin, &out).
template <typename Rewrite>
void RewritePieces(PieceList* list, Rewrite rewrite) {
  std::string out;
  out.reserve(list->text.size() + list->text.size() / 4 + 8);
  for (PieceList::Piece& piece : list->pieces) {
    const size_t begin = out.size();
    rewrite(list->Text(piece), piece.from_origin, &out);
    piece.begin = begin;
    piece.end = out.size();
  }
  list->text = std::move(out);
}

class SplitPreTokenizer final : public PreTokenizer {
 public:
  explicit SplitPreTokenizer(const JsonFields& fields)
      : pattern_(fields),
        behavior_(ParseBehavior(fields, "behavior")),
        invert_(fields.GetBool("invert")) {}

  void Apply(PieceList* list, RegexScratch* scratch) const override {
    SplitPieces(list, behavior_, invert_, [&](std::string_view text, auto visit) {
      pattern_.ForEachMatch(text, scratch, visit);
    });
  }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// Splits by a pattern of our own.
class RegexPreTokenizer final : public PreTokenizer {
 public:
  RegexPreTokenizer(std::string_view pattern, SplitBehavior behavior, bool invert)
      : regex_(pattern, "built-in pattern"), behavior_(behavior), invert_(invert) {}

  void Apply(PieceList* list, RegexScratch* scratch) const override {
    SplitPieces(list, behavior_, invert_, [&](std::string_view text, auto visit) {
      regex_.ForEachMatch(text, scratch, visit);
    });
  }

 private:
  Regex regex_;
  SplitBehavior behavior_;
  bool invert_;
};

class ByteLevelPreTokenizer final : public PreTokenizer {
 public:
  explicit ByteLevelPreTokenizer(const JsonFields& fields)
      : add_prefix_space_(fields.GetBool("add_prefix_space")), to_alphabet_(true) {
    if (fields.FindBool("use_regex").value_or(true)) {
      split_ = std::make_unique<RegexPreTokenizer>(
          R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
          SplitBehavior::kIsolated, false);
    }
  }

  // Leaves the bytes as they are.
  void SkipAlphabet() { to_alphabet_ = false; }

  void Apply(PieceList* list, RegexScratch* scratch) const override {
    if (add_prefix_space_) {
      RewritePieces(list, [](std::string_view text, bool, std::string* out) {
        if (!text.starts_with(' ')) {
          *out += ' ';
        }
        *out += text;
      });
    }
    if (split_ != nullptr) {
      split_->Apply(list, scratch);
    }
    if (to_alphabet_) {
      RewritePieces(list, [](std::string_view text, bool, std::string* out) {
        *out += BytesToAlphabet(text);
      });
    }
  }

 private:
  bool add_prefix_space_;
  bool to_alphabet_;
  std::unique_ptr<const RegexPreTokenizer> split_;
};

class MetaspacePreTokenizer final : public PreTokenizer {
 public:
  explicit MetaspacePreTokenizer(const JsonFields& fields)
      : character_(ParseCharacter(fields, "replacement")),
        split_(fields.FindBool("split").value_or(true)) {
    AppendUtf8(character_, &replacement_);
    const std::string scheme = fields.FindString("prepend_scheme").value_or("always");
    const bool add_prefix_space = fields.FindBool("add_prefix_space").value_or(true);
    if (scheme == "always") {
      scheme_ = Scheme::kAlways;
    } else if (scheme == "first") {
      scheme_ = Scheme::kFirst;
    } else if (scheme == "never") {
      scheme_ = Scheme::kNever;
    } else {
      fields.FailExpected("prepend_scheme", "\"always\", \"first\" or \"never\"");
    }
    // Files older than prepend_scheme have only add_prefix_space.
    if (!add_prefix_space) {
      if (fields.Has("prepend_scheme") && scheme_ != Scheme::kNever) {
        fields.FailField("add_prefix_space", "contradicts prepend_scheme");
      }
      scheme_ = Scheme::kNever;
    }
  }

  void Apply(PieceList* list, RegexScratch*) const override {
    RewritePieces(list, [&](std::string_view text, bool from_origin, std::string* out) {
      const bool prepend = scheme_ == Scheme::kAlways || (scheme_ == Scheme::kFirst && from_origin);
      if (prepend && !text.starts_with(' ') && !text.starts_with(replacement_)) {
        *out += replacement_;
      }
      for (size_t i = 0; i < text.size();) {
        const size_t space = std::min(text.find(' ', i), text.size());
        *out += text.substr(i, space - i);
        if (space < text.size()) {
          *out += replacement_;
        }
        i = space + 1;
      }
    });
    if (split_) {
      SplitAtCharacters(list, SplitBehavior::kMergedWithNext,
                        [&](char32_t c) { return c == character_; });
    }
  }

 private:
  enum class Scheme { kAlways, kFirst, kNever };

  char32_t character_;
  bool split_;
  std::string replacement_;
  Scheme scheme_;
};

class CharacterPreTokenizer final : public PreTokenizer {
 public:
  using IsMatch = bool (*)(char32_t);
  CharacterPreTokenizer(IsMatch is_match, SplitBehavior behavior)
      : is_match_(is_match), behavior_(behavior) {}
  void Apply(PieceList* list, RegexScratch*) const override {
    SplitAtCharacters(list, behavior_, is_match_);
  }

 private:
  IsMatch is_match_;
  SplitBehavior behavior_;
};

class DelimiterPreTokenizer final : public PreTokenizer {
 public:
  explicit DelimiterPreTokenizer(const JsonFields& fields)
      : delimiter_(ParseCharacter(fields, "delimiter")) {}
  void Apply(PieceList* list, RegexScratch*) const override {
    SplitAtCharacters(list, SplitBehavior::kRemoved, [&](char32_t c) { return c == delimiter_; });
  }

 private:
  char32_t delimiter_;
};

class FixedLengthPreTokenizer final : public PreTokenizer {
 public:
  explicit FixedLengthPreTokenizer(const JsonFields& fields)
      : length_(fields.FindInt("length", 1, int64_t{1} << 31).value_or(5)) {}
  void Apply(PieceList* list, RegexScratch*) const override {
    SplitPieces(list, SplitBehavior::kIsolated, false, [&](std::string_view text, auto visit) {
      for (size_t i = 0; i < text.size();) {
        const size_t size = CodePointOffset(text.substr(i), static_cast<size_t>(length_));
        visit(i, i + size);
        i += size;
      }
    });
  }

 private:
  int64_t length_;
};

// BERT's words: cut at whitespace, which goes, and around punctuation.
class BertPreTokenizer final : public PreTokenizer {
 public:
  void Apply(PieceList* list, RegexScratch*) const override {
    SplitAtCharacters(list, SplitBehavior::kRemoved, IsWhitespace);
    SplitAtCharacters(list, SplitBehavior::kIsolated, IsPunctuation);
  }
};

// Cuts where the script changes. Spaces and unassigned code points belong to what is before them,
// and are dropped at the start of a piece. Han and the two kana count as one script, as they mix in
// Japanese.
class ScriptPreTokenizer final : public PreTokenizer {
 public:
  void Apply(PieceList* list, RegexScratch*) const override {
    std::vector<PieceList::Piece> out;
    for (const PieceList::Piece& piece : list->pieces) {
      const std::string_view text = list->Text(piece);
      Script last = kNoScript;
      for (size_t i = 0; i < text.size();) {
        const size_t begin = i;
        const Script script = ScriptForSplitting(DecodeUtf8(text, &i));
        if (script != kNoScript && script != last) {
          last = script;
          out.push_back({piece.begin + begin, piece.begin + i, piece.from_origin && begin == 0});
        } else if (last != kNoScript) {
          out.back().end = piece.begin + i;
        }
      }
    }
    list->pieces = std::move(out);
  }

 private:
  static Script ScriptForSplitting(char32_t c) {
    static const Script japanese = ScriptOf(0x4e00);
    static const Script hiragana = ScriptOf(0x3042);
    static const Script katakana = ScriptOf(0x30a2);
    if (c == U' ' || !HasScript(c)) {
      return kNoScript;
    }
    const Script script = c == 0x30fc ? japanese : ScriptOf(WithItsScript(c));
    return script == hiragana || script == katakana ? japanese : script;
  }
};

class SequencePreTokenizer final : public PreTokenizer {
 public:
  SequencePreTokenizer(const JsonFields& fields, bool* byte_level) {
    const std::vector<JsonFields> steps = fields.GetObjects("pretokenizers");
    for (size_t i = 0; i < steps.size(); ++i) {
      bool* const last_byte_level = i + 1 == steps.size() ? byte_level : nullptr;
      steps_.push_back(MakePreTokenizer(steps[i], last_byte_level));
    }
  }
  void Apply(PieceList* list, RegexScratch* scratch) const override {
    for (const auto& step : steps_) {
      step->Apply(list, scratch);
    }
  }

 private:
  std::vector<std::unique_ptr<const PreTokenizer>> steps_;
};

}  // namespace

std::unique_ptr<const PreTokenizer> MakePreTokenizer(const JsonFields& fields, bool* byte_level) {
  const std::string type = fields.GetString("type");
  if (type == "ByteLevel") {
    auto step = std::make_unique<ByteLevelPreTokenizer>(fields);
    if (byte_level != nullptr) {
      *byte_level = true;
      step->SkipAlphabet();
    }
    return step;
  }
  if (type == "Split") return std::make_unique<SplitPreTokenizer>(fields);
  if (type == "Metaspace") return std::make_unique<MetaspacePreTokenizer>(fields);
  if (type == "Digits") {
    return std::make_unique<CharacterPreTokenizer>(
        IsNumeric, fields.FindBool("individual_digits").value_or(false)
                       ? SplitBehavior::kIsolated
                       : SplitBehavior::kContiguous);
  }
  if (type == "Punctuation") {
    return std::make_unique<CharacterPreTokenizer>(
        IsPunctuation,
        fields.Has("behavior") ? ParseBehavior(fields, "behavior") : SplitBehavior::kIsolated);
  }
  if (type == "WhitespaceSplit") {
    return std::make_unique<CharacterPreTokenizer>(IsWhitespace, SplitBehavior::kRemoved);
  }
  if (type == "Whitespace") {
    return std::make_unique<RegexPreTokenizer>(
        R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|)"
        R"([^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\s]+)",
        SplitBehavior::kRemoved, true);
  }
  if (type == "CharDelimiterSplit") return std::make_unique<DelimiterPreTokenizer>(fields);
  if (type == "FixedLength") return std::make_unique<FixedLengthPreTokenizer>(fields);
  if (type == "BertPreTokenizer") return std::make_unique<BertPreTokenizer>();
  if (type == "UnicodeScripts") {
    return std::make_unique<ScriptPreTokenizer>();
  }
  if (type == "Sequence") return std::make_unique<SequencePreTokenizer>(fields, byte_level);
  fields.FailUnsupported("type", StrCat("unknown pre-tokenizer ", QuoteForMessage(type)));
}

}  // namespace dualfp
