// The "normalizer" of tokenizer.json: what happens to text before it is split.

#pragma once

#include <memory>
#include <string>

#include "dualfp/io/json.h"
#include "dualfp/text/regex/regex.h"

namespace dualfp {

class Normalizer {
 public:
  virtual ~Normalizer() = default;

  // Rewrites *text, which is and stays valid UTF-8. Clears *from_origin when the first character
  // no longer comes from the first character before: Metaspace's prepend_scheme "first" asks.
  virtual void Apply(std::string* text, bool* from_origin, RegexScratch* scratch) const = 0;
};

// Throws kUnsupported for a type it does not know, naming it, and kInvalidFile for wrong fields.
// Known: NFC, NFD, NFKC, NFKD, Replace, Prepend, Strip, StripAccents, Lowercase, Nmt, ByteLevel,
// BertNormalizer, Precompiled, Sequence.
std::unique_ptr<const Normalizer> MakeNormalizer(const JsonFields& fields);

// The search of "pattern": {"String": ...} or {"Regex": ...}, which normalizers, pre-tokenizers
// and decoders share.
class Pattern {
 public:
  // `owner` has the field "pattern".
  explicit Pattern(const JsonFields& owner);

  // Visits the matches from left to right.
  template <typename Visit>
  void ForEachMatch(std::string_view text, RegexScratch* scratch, Visit visit) const {
    if (regex_ != nullptr) {
      regex_->ForEachMatch(text, scratch, visit);
      return;
    }
    if (literal_.empty()) {
      return;
    }
    for (size_t at = text.find(literal_); at != std::string_view::npos;
         at = text.find(literal_, at + literal_.size())) {
      visit(at, at + literal_.size());
    }
  }

  std::string Replace(std::string_view text, std::string_view replacement,
                      RegexScratch* scratch) const;

 private:
  std::string literal_;
  std::shared_ptr<const Regex> regex_;
};

}  // namespace dualfp
