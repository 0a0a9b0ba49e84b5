// The regular expressions of tokenizer.json, matched by PCRE2 (JIT-compiled where it can be).
//
// Hugging Face's tokenizers matches them with Oniguruma in its Ruby syntax; the pattern is
// rewritten so that PCRE2 gives the same matches: \s is White_Space, \w the Unicode word
// characters, \h a hexadecimal digit, ^ and $ match at lines, (?m) lets the dot match newlines;
// classes may hold classes and be intersected (&&); properties go by Oniguruma's names.

#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace dualfp {

// What a search needs besides the pattern: memory that one thread reuses from call to call.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(RegexScratch&&) noexcept;
  RegexScratch& operator=(RegexScratch&&) noexcept;

 private:
  friend class Regex;
  struct State;
  std::unique_ptr<State> state_;
};

// Immutable; any number of threads may search with their own scratch.
class Regex {
 public:
  // Throws kInvalidFile naming `origin` for a pattern that does not compile, among them what
  // Oniguruma has and PCRE2 has not (lookbehinds of any length, absent operators), and kUnsupported
  // for text segments (\X and \y).
  Regex(std::string_view pattern, std::string_view origin);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  struct Match {
    size_t begin;
    size_t end;
  };

  // The first match in `text`, which must be valid UTF-8, that starts at or after `start`; false
  // when there is none. Throws kResourceExhausted when the pattern backtracks without end.
  bool Find(std::string_view text, size_t start, RegexScratch* scratch, Match* match) const;

  // Calls visit(begin, end) for every match, left to right. An empty match directly after the
  // previous match is skipped.
  template <typename Visit>
  void ForEachMatch(std::string_view text, RegexScratch* scratch, Visit visit) const {
    size_t start = 0;
    size_t last_end = std::string_view::npos;
    Match match;
    while (start <= text.size() && Find(text, start, scratch, &match)) {
      if (match.begin == match.end && match.end == last_end) {
        start = NextCodePoint(text, match.end);
        continue;
      }
      visit(match.begin, match.end);
      start = last_end = match.end;
    }
  }

 private:
  static size_t NextCodePoint(std::string_view text, size_t position);

  struct Code;
  std::unique_ptr<const Code> code_;
};

// The pattern as PCRE2 spells it.
std::string TranslateRegex(std::string_view pattern, std::string_view origin);

}  // namespace dualfp
