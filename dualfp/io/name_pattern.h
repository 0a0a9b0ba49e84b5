// Patterns of module names, as quantization configs and command lines have them.

#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dualfp {

// One of
//   re:REGEX   Python's re.match: a regular expression that matches from the name's first character
//   a*b?c      a wildcard pattern for the whole name: * any characters, ? one, [a-z] one of a set
//   NAME       the name itself
// Matching is bounded: a regular expression that backtracks beyond all measure is an error.
class NamePattern {
 public:
  // `origin` is what errors call the place that the pattern comes from. Throws kInvalidFile for an
  // empty pattern and for a regular expression that PCRE2 does not take.
  NamePattern(std::string_view pattern, std::string_view origin);
  ~NamePattern();
  NamePattern(NamePattern&&) noexcept;
  NamePattern& operator=(NamePattern&&) noexcept;

  // As it was given.
  const std::string& text() const { return text_; }

  // Whether it is neither a wildcard nor an expression.
  bool is_name() const { return regex_ == nullptr; }

  // Throws kInvalidFile where matching takes too long. Not to be called by two threads at a time.
  bool Matches(std::string_view name) const;

 private:
  struct Regex;

  std::string text_;
  std::string origin_;
  std::unique_ptr<Regex> regex_;
};

std::vector<NamePattern> ParseNamePatterns(std::span<const std::string> patterns,
                                           std::string_view origin);

bool MatchesAny(std::span<const NamePattern> patterns, std::string_view name);

}  // namespace dualfp
