// Oniguruma's Ruby syntax, as tokenizer.json uses it, rewritten for PCRE2.

#include <algorithm>
#include <string>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"
#include "dualfp/text/regex/character_class.h"
#include "dualfp/text/regex/properties.h"
#include "dualfp/text/regex/regex.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

// What a backslash makes of these letters is the same in both languages. Any other letter that is
// not handled below stands for itself in Ruby and may mean something else to PCRE2.
constexpr std::string_view kSharedEscapes = "AZzGKRNtnrfaegk0123456789";

constexpr std::string_view kDigits = "0123456789";

class Translator {
 public:
  Translator(std::string_view pattern, std::string_view origin)
      : pattern_(pattern), origin_(origin) {}

  std::string Run() {
    while (position_ < pattern_.size()) {
      TranslateOne();
    }
    return std::move(out_);
  }

 private:
  bool At(std::string_view text) const { return pattern_.substr(position_).starts_with(text); }

  char Take() { return position_ < pattern_.size() ? pattern_[position_++] : '\0'; }

  // Makes the latest atom and its quantifiers one atom.
  void GroupAtom() {
    out_.insert(std::min(atom_, out_.size()), "(?:");
    out_ += ")";
    repeat_ = Repeat::kNone;
  }

  void Quantifier() {
    const char c = Take();
    if (repeat_ == Repeat::kOpen && c != '*') {
      repeat_ = Repeat::kClosed;  // lazy or possessive
    } else {
      if (repeat_ != Repeat::kNone) {
        GroupAtom();  // "a**", which PCRE2 does not have
      }
      repeat_ = Repeat::kOpen;
    }
    out_ += c;
  }

  void TranslateOne() {
    const char c = pattern_[position_];
    if (c == '*' || c == '+' || c == '?') {
      Quantifier();
      return;
    }
    if (c == '{') {
      Interval();
      return;
    }
    repeat_ = Repeat::kNone;
    if (c == '\\') {
      atom_ = out_.size();
      ++position_;
      Escape();
    } else if (c == '[') {
      atom_ = out_.size();
      ++position_;
      out_ += ReadCharacterClass(pattern_, &position_, origin_);
    } else if (At("(?#")) {
      position_ = std::min(pattern_.find(')', position_), pattern_.size() - 1) + 1;
    } else if (c == '(') {
      groups_.push_back(out_.size());
      ++position_;
      out_ += c;
      GroupFlags();
    } else if (c == ')') {
      if (!groups_.empty()) {
        atom_ = groups_.back();
        groups_.pop_back();
      }
      ++position_;
      out_ += c;
    } else {
      if (c != '|') {
        atom_ = out_.size();
      }
      // A whole code point is one atom; its continuation bytes are copied with it.
      do {
        out_ += Take();
      } while (position_ < pattern_.size() && IsUtf8Continuation(pattern_[position_]));
    }
  }

  // After "(": in "(?m-ix:" Ruby's m is PCRE2's s.
  void GroupFlags() {
    if (!At("?")) {
      return;
    }
    size_t end = position_ + 1;
    while (end < pattern_.size() &&
           std::string_view("imx-").find(pattern_[end]) != std::string_view::npos) {
      ++end;
    }
    if (end < pattern_.size() && (pattern_[end] == ')' || pattern_[end] == ':')) {
      std::string flags(pattern_.substr(position_, end - position_));
      std::replace(flags.begin(), flags.end(), 'm', 's');
      out_ += flags;
      position_ = end;
    }
  }

  // "{n,m}", which a following "+" repeats in Ruby and makes possessive in PCRE2; a "?" after "{n}"
  // makes the whole optional in Ruby and does nothing in PCRE2.
  void Interval() {
    size_t end = position_ + 1;
    while (end < pattern_.size() &&
           std::string_view("0123456789,").find(pattern_[end]) != std::string_view::npos) {
      ++end;
    }
    const std::string_view bounds = pattern_.substr(position_ + 1, end - position_ - 1);
    if (bounds.empty() || bounds == "," || end >= pattern_.size() || pattern_[end] != '}') {
      atom_ = out_.size();
      repeat_ = Repeat::kNone;
      ++position_;
      out_ += "\\{";
      return;
    }
    if (repeat_ != Repeat::kNone) {
      GroupAtom();
    }
    out_ += StrCat("{", bounds.starts_with(',') ? "0" : "", bounds, "}");
    position_ = end + 1;
    repeat_ = Repeat::kOpen;
    const bool is_fixed = bounds.find(',') == std::string_view::npos;
    if (At("+") || (is_fixed && At("?"))) {
      GroupAtom();
    }
  }

  // After the backslash.
  void Escape() {
    const char c = Take();
    const std::string word = StrCat("[", WordCharacters(), "]");
    switch (c) {
      case 'b':
        out_ += StrCat("(?:(?<=", word, ")(?!", word, ")|(?<!", word, ")(?=", word, "))");
        return;
      case 'B':
        out_ += StrCat("(?:(?<=", word, ")(?=", word, ")|(?<!", word, ")(?!", word, "))");
        return;
      case 'w':
        out_ += word;
        return;
      case 'W':
        out_ += StrCat("[^", WordCharacters(), "]");
        return;
      case 'O':
        out_ += "(?s:.)";
        return;
      case 'X':
      case 'y':
      case 'Y':
        // PCRE2 has \X, but cuts emoji at other places.
        Fail(ErrorCode::kUnsupported, origin_, ": text segments (\\", std::string(1, c),
             ") in the regular expression ", QuoteForMessage(pattern_));
      case '\0':
        out_ += '\\';  // a pattern that ends in a backslash: PCRE2 says so
        return;
      default:
        break;
    }
    --position_;
    if (const std::optional<CharacterSet> set = ReadSetEscape(pattern_, &position_, origin_)) {
      out_ += set->Pattern(/*negated=*/false);
      return;
    }
    if (kSharedEscapes.find(c) != std::string_view::npos) {
      ++position_;
      out_ += kDigits.find(c) == std::string_view::npos ? StrCat("\\", std::string(1, c))
                                                        : BackReference(c);
      return;
    }
    out_ += QuoteCodePoint(ReadCharacterEscape(pattern_, &position_, origin_));
  }

  // After the backslash and its first digit.
  std::string BackReference(char first) {
    std::string digits(1, first);
    while (position_ < pattern_.size() && digits.size() < 3 &&
           kDigits.find(pattern_[position_]) != std::string_view::npos) {
      digits += Take();
    }
    return StrCat("\\", digits);
  }

  std::string_view pattern_;
  std::string_view origin_;
  size_t position_ = 0;
  std::string out_;
  size_t atom_ = 0;  // where the latest atom starts in out_
  // Whether the latest atom has a quantifier, and whether that may still become lazy or possessive.
  enum class Repeat { kNone, kOpen, kClosed };
  Repeat repeat_ = Repeat::kNone;
  std::vector<size_t> groups_;  // where the open groups start in out_
};

}  // namespace

std::string TranslateRegex(std::string_view pattern, std::string_view origin) {
  return Translator(pattern, origin).Run();
}

}  // namespace dualfp
