// Oniguruma's Ruby syntax, as tokenizer.json uses it, rewritten for PCRE2.

#include <algorithm>
#include <cstdio>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"
#include "dualfp/text/regex.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

struct NamedSet {
  std::string_view name;
  std::string_view content;  // of a character class
};

constexpr NamedSet kPosixSets[] = {
    {"alpha", R"(\p{Alphabetic})"},
    {"digit", R"(\p{Nd})"},
    {"alnum", R"(\p{Alphabetic}\p{Nd})"},
    {"space", R"(\p{White_Space})"},
    {"upper", R"(\p{Uppercase})"},
    {"lower", R"(\p{Lowercase})"},
    {"xdigit", "0-9A-Fa-f"},
    {"word", ""},
};

// General categories by the long names that PCRE2 does not know.
constexpr NamedSet kCategories[] = {
    {"Letter", "L"},         {"Mark", "M"},      {"Number", "N"},          {"Punctuation", "P"},
    {"Symbol", "S"},         {"Separator", "Z"}, {"Other", "C"},           {"Punct", "P"},
    {"Alpha", "Alphabetic"}, {"Digit", "Nd"},    {"Space", "White_Space"}, {"Upper", "Uppercase"},
    {"Lower", "Lowercase"},
};

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
  [[noreturn]] void Refuse(std::string_view what) const {
    Fail(ErrorCode::kUnsupported, origin_, ": ", what, " in the regular expression ",
         QuoteForMessage(pattern_));
  }

  [[noreturn]] void Break(std::string_view what) const {
    Fail(ErrorCode::kInvalidFile, origin_, ": ", what, " in the regular expression ",
         QuoteForMessage(pattern_));
  }

  bool At(std::string_view text) const { return pattern_.substr(position_).starts_with(text); }

  char Take() { return position_ < pattern_.size() ? pattern_[position_++] : '\0'; }

  void TranslateOne() {
    const char c = pattern_[position_];
    if (c == '\\') {
      atom_ = out_.size();
      ++position_;
      Escape(/*in_class=*/false);
    } else if (c == '[') {
      atom_ = out_.size();
      ++position_;
      Class();
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
    } else if (c == '{') {
      Interval();
    } else {
      if (std::string_view("*+?|").find(c) == std::string_view::npos) {
        atom_ = out_.size();
      }
      // A whole code point is one atom; its continuation bytes are copied with it.
      do {
        out_ += Take();
      } while (position_ < pattern_.size() && (pattern_[position_] & 0xc0) == 0x80);
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

  // "{n,m}", which a following "+" repeats in Ruby and makes possessive in PCRE2.
  void Interval() {
    size_t end = position_ + 1;
    while (end < pattern_.size() &&
           std::string_view("0123456789,").find(pattern_[end]) != std::string_view::npos) {
      ++end;
    }
    const bool is_interval = end > position_ + 1 && end < pattern_.size() && pattern_[end] == '}';
    if (!is_interval) {
      atom_ = out_.size();
      ++position_;
      out_ += "\\{";
      return;
    }
    std::string interval(pattern_.substr(position_, end + 1 - position_));
    if (interval.starts_with("{,")) {
      interval.insert(1, "0");
    }
    out_ += interval;
    position_ = end + 1;
    if (At("+")) {
      out_.insert(std::min(atom_, out_.size()), "(?:");
      out_ += ")";
    }
  }

  // After "[".
  void Class() {
    out_ += '[';
    if (At("^")) {
      out_ += Take();
    }
    if (At("]")) {
      out_ += "\\]";
      ++position_;
    }
    while (!At("]")) {
      if (position_ >= pattern_.size()) {
        Break("unfinished character class");
      }
      if (At("[:")) {
        PosixSet();
      } else if (At("[")) {
        Refuse("nested character classes");
      } else if (At("&&")) {
        Refuse("an intersection of character classes");
      } else if (At("\\")) {
        ++position_;
        Escape(/*in_class=*/true);
      } else {
        out_ += Take();
      }
    }
    out_ += Take();
  }

  void PosixSet() {
    for (const NamedSet& set : kPosixSets) {
      const std::string spelled = StrCat("[:", set.name, ":]");
      if (At(spelled)) {
        out_ += set.name == "word" ? Word() : std::string(set.content);
        position_ += spelled.size();
        return;
      }
    }
    Refuse("an unknown POSIX bracket expression");
  }

  // After the backslash.
  void Escape(bool in_class) {
    const char c = Take();
    switch (c) {
      case 's':
        out_ += "\\p{White_Space}";
        return;
      case 'S':
        out_ += "\\P{White_Space}";
        return;
      case 'd':
        Set(StrCat("\\p{Nd}", NewerCodePoints("Nd")), false, in_class);
        return;
      case 'D':
        Set(StrCat("\\p{Nd}", NewerCodePoints("Nd")), true, in_class);
        return;
      case 'w':
      case 'W':
        Set(Word(), c == 'W', in_class);
        return;
      case 'h':
      case 'H':
        Set("0-9A-Fa-f", c == 'H', in_class);
        return;
      case 'v':
        out_ += "\\x0b";
        return;
      case 'b':
        if (in_class) {
          out_ += "\\b";
        } else {
          const std::string word = Word();
          out_ += StrCat("(?:(?<=[", word, "])(?![", word, "])|(?<![", word, "])(?=[", word, "]))");
        }
        return;
      case 'B': {
        const std::string word = Word();
        out_ += StrCat("(?:(?<=[", word, "])(?=[", word, "])|(?<![", word, "])(?![", word, "]))");
        return;
      }
      case 'u':
        out_ += StrCat("\\x{", pattern_.substr(std::min(position_, pattern_.size()), 4), "}");
        position_ = std::min(position_ + 4, pattern_.size());
        return;
      case 'p':
      case 'P':
        Property(c, in_class);
        return;
      default:
        out_ += '\\';
        if (c != '\0') {
          out_ += c;
        }
    }
  }

  // After "\p" or "\P".
  void Property(char letter, bool in_class) {
    const size_t end = pattern_.find('}', position_);
    if (!At("{") || end == std::string_view::npos) {
      Break("a property without braces");
    }
    std::string_view name = pattern_.substr(position_ + 1, end - position_ - 1);
    position_ = end + 1;
    bool negated = letter == 'P';
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    for (const NamedSet& category : kCategories) {
      if (name == category.name) {
        name = category.content;
      }
    }
    const std::string newer = NewerCodePoints(name);
    if (newer.empty() || (in_class && negated)) {
      out_ += StrCat(negated ? "\\P{" : "\\p{", name, "}");
    } else {
      Set(StrCat("\\p{", name, "}", newer), negated, in_class);
    }
  }

  // The content of a character class equal to Oniguruma's \w, which up to U+00FF follows Latin-1's
  // idea of a word character.
  static std::string Word() {
    return StrCat(R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\xb2\xb3\xb9\xbc-\xbe)", NewerCodePoints("L"),
                  NewerCodePoints("M"), NewerCodePoints("Nd"), NewerCodePoints("Nl"),
                  NewerCodePoints("Pc"));
  }

  // The code points of a category that PCRE2 may not know, as the content of a character class.
  static std::string NewerCodePoints(std::string_view category) {
    std::string ranges;
    for (const CategoryRange& range : CategoriesSinceUnicode14()) {
      if (!category.empty() && CategoryName(range.category).starts_with(category)) {
        char buffer[40];
        std::snprintf(buffer, sizeof(buffer), "\\x{%x}-\\x{%x}", static_cast<unsigned>(range.first),
                      static_cast<unsigned>(range.last));
        ranges += buffer;
      }
    }
    return ranges;
  }

  // A set of characters given as the content of a class.
  void Set(std::string_view content, bool negated, bool in_class) {
    if (in_class && negated) {
      Refuse("a negated set inside a character class");
    }
    out_ += in_class ? std::string(content) : StrCat(negated ? "[^" : "[", content, "]");
  }

  std::string_view pattern_;
  std::string_view origin_;
  size_t position_ = 0;
  std::string out_;
  size_t atom_ = 0;             // where the latest atom starts in out_
  std::vector<size_t> groups_;  // where the open groups start in out_
};

}  // namespace

std::string TranslateRegex(std::string_view pattern, std::string_view origin) {
  return Translator(pattern, origin).Run();
}

}  // namespace dualfp
