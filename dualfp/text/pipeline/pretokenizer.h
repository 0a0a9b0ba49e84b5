// The "pre_tokenizer" of tokenizer.json: how text is cut into the words that the model merges
// within.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/text/regex/regex.h"

namespace dualfp {

// A text and the pieces it has been cut into so far, in order. Pieces may leave gaps.
struct PieceList {
  struct Piece {
    size_t begin;
    size_t end;
    bool from_origin;  // starts with the first character of the whole input
  };

  std::string text;
  std::vector<Piece> pieces;

  std::string_view Text(const Piece& piece) const {
    const std::string_view all = text;
    return all.substr(piece.begin, piece.end - piece.begin);
  }
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void Apply(PieceList* list, RegexScratch* scratch) const = 0;
};

// Throws kUnsupported for a type it does not know, naming it, and kInvalidFile for wrong fields.
// Known: ByteLevel, Metaspace, Split, Digits, Punctuation, Whitespace, WhitespaceSplit,
// CharDelimiterSplit, FixedLength, BertPreTokenizer, UnicodeScripts, Sequence.
//
// A ByteLevel step that comes last is not carried out: it would write each byte as the character
// of GPT-2's alphabet only for the model to look it up. *byte_level tells the model to read the
// pieces as bytes instead.
std::unique_ptr<const PreTokenizer> MakePreTokenizer(const JsonFields& fields, bool* byte_level);

}  // namespace dualfp
