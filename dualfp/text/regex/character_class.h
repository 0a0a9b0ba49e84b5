// Character classes and the escapes that stand for sets of characters, in Oniguruma's Ruby syntax,
// as PCRE2 patterns that match one code point. Oniguruma has classes inside classes and
// intersections; PCRE2 has not: there they become alternatives and lookaheads.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dualfp {

// A union of what a PCRE2 class can hold and of patterns that each match one code point.
class CharacterSet {
 public:
  // The content of a class: "a-z\p{L}".
  void Add(std::string_view content) { content_ += content; }
  void AddPattern(std::string pattern) { patterns_.push_back(std::move(pattern)); }
  void AddSet(const CharacterSet& set, bool negated);

  // A PCRE2 pattern that matches one code point of the set, or one outside of it.
  std::string Pattern(bool negated) const;

 private:
  std::string content_;
  std::vector<std::string> patterns_;
};

// Reads the class whose "[" is before *position, up to and including its "]". Throws kInvalidFile
// naming `origin` for one that is not well-formed.
std::string ReadCharacterClass(std::string_view pattern, size_t* position, std::string_view origin);

// Reads an escape that stands for a set (\d, \S, \h, \p{...}), *position being after the backslash.
// Nothing, with *position as it was, for any other escape.
std::optional<CharacterSet> ReadSetEscape(std::string_view pattern, size_t* position,
                                          std::string_view origin);

// Reads an escape that stands for one code point (\n, \x41, \u4e00, \.), *position being after the
// backslash.
char32_t ReadCharacterEscape(std::string_view pattern, size_t* position, std::string_view origin);

// The code point as a PCRE2 pattern or as part of a class.
std::string QuoteCodePoint(char32_t code_point);

}  // namespace dualfp
