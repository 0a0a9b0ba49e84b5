#include "dualfp/text/regex/character_class.h"

#include <charconv>
#include <cstdio>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"
#include "dualfp/text/regex/properties.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

constexpr int kMaxNesting = 50;
constexpr std::string_view kAnyCodePoint = "(?s:.)";

[[noreturn]] void Break(std::string_view what, std::string_view pattern, std::string_view origin) {
  Fail(ErrorCode::kInvalidFile, origin, ": ", what, " in the regular expression ",
       QuoteForMessage(pattern));
}

class ClassReader {
 public:
  ClassReader(std::string_view pattern, size_t position, std::string_view origin)
      : pattern_(pattern), origin_(origin), position_(position) {}

  size_t position() const { return position_; }

  // After "[": a pattern for the whole class.
  std::string Read(int depth) {
    bool negated = false;
    const CharacterSet set = ReadSet(depth, &negated);
    return set.Pattern(negated);
  }

 private:
  bool At(std::string_view text) const { return pattern_.substr(position_).starts_with(text); }

  // After "[". Reads up to and including "]".
  CharacterSet ReadSet(int depth, bool* negated) {
    if (depth > kMaxNesting) {
      Break("character classes nested too deeply", pattern_, origin_);
    }
    *negated = Skip("^");
    CharacterSet set;
    std::vector<std::string> operands;  // of intersections: those before `set`
    bool is_first = true;
    while (is_first || !At("]")) {
      if (position_ >= pattern_.size()) {
        Break("unfinished character class", pattern_, origin_);
      }
      if (Skip("&&")) {
        operands.push_back(set.Pattern(false));
        set = {};
      } else if (!ReadPosixSet(&set)) {
        if (Skip("[")) {
          bool inner_negated = false;
          const CharacterSet inner = ReadSet(depth + 1, &inner_negated);
          set.AddSet(inner, inner_negated);
        } else {
          ReadItem(&set);
        }
      }
      is_first = false;
    }
    ++position_;
    if (operands.empty()) {
      return set;
    }
    std::string pattern = "(?:";
    for (const std::string& operand : operands) {
      pattern += StrCat("(?=", operand, ")");
    }
    CharacterSet result;
    result.AddPattern(StrCat(pattern, set.Pattern(false), ")"));
    return result;
  }

  bool Skip(std::string_view text) {
    if (!At(text)) {
      return false;
    }
    position_ += text.size();
    return true;
  }

  // "[:alpha:]" or "[:^alpha:]"; false where "[" opens an ordinary class.
  bool ReadPosixSet(CharacterSet* set) {
    if (!At("[:")) {
      return false;
    }
    const size_t end = pattern_.find(":]", position_ + 2);
    std::string_view name = pattern_.substr(position_ + 2, end - position_ - 2);
    const bool negated = name.starts_with('^');
    name.remove_prefix(negated ? 1 : 0);
    const std::optional<CharacterSet> posix =
        end == std::string_view::npos ? std::nullopt : FindPosixBracket(name);
    if (!posix) {
      // Oniguruma looks this far for the end before it takes "[" for a class inside the class.
      constexpr size_t kFarthestEnd = 20;
      if (end != std::string_view::npos && end - position_ < kFarthestEnd &&
          pattern_.substr(position_, end - position_).find(']') == std::string_view::npos) {
        Break("an unknown POSIX bracket", pattern_, origin_);
      }
      return false;
    }
    set->AddSet(*posix, negated);
    position_ = end + 2;
    return true;
  }

  // A code point, a range of them, or a set by its escape.
  void ReadItem(CharacterSet* set) {
    if (At("\\")) {
      ++position_;
      if (const auto escaped = ReadSetEscape(pattern_, &position_, origin_)) {
        set->AddSet(*escaped, false);
        return;
      }
      --position_;
    }
    const char32_t first = ReadCodePoint();
    char32_t last = first;
    if (At("-") && !StartsNoCharacter(position_ + 1)) {
      ++position_;
      if (pattern_[position_] == '\\') {
        size_t escape = position_ + 1;
        if (ReadSetEscape(pattern_, &escape, origin_)) {
          Break("a set at the end of a range", pattern_, origin_);
        }
      }
      last = ReadCodePoint();
      if (last < first) {
        Break("an empty range", pattern_, origin_);
      }
    }
    set->Add(last == first ? QuoteCodePoint(first)
                           : StrCat(QuoteCodePoint(first), "-", QuoteCodePoint(last)));
  }

  // Whether a hyphen before that place stands for itself.
  bool StartsNoCharacter(size_t at) const {
    const std::string_view rest = pattern_.substr(std::min(at, pattern_.size()));
    return rest.empty() || rest[0] == ']' || rest[0] == '[' || rest.starts_with("&&");
  }

  char32_t ReadCodePoint() {
    if (At("\\")) {
      ++position_;
      if (Skip("b")) {
        return '\b';
      }
      return ReadCharacterEscape(pattern_, &position_, origin_);
    }
    if (position_ >= pattern_.size()) {
      Break("unfinished character class", pattern_, origin_);
    }
    return DecodeUtf8(pattern_, &position_);
  }

  std::string_view pattern_;
  std::string_view origin_;
  size_t position_;
};

// Hexadecimal or octal digits; nothing when there are none.
std::optional<uint32_t> ReadDigits(std::string_view pattern, size_t* position, int base,
                                   size_t max_digits) {
  const std::string_view digits =
      pattern.substr(std::min(*position, pattern.size())).substr(0, max_digits);
  uint32_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc()) {
    return std::nullopt;
  }
  *position += static_cast<size_t>(end - digits.data());
  return value;
}

// After "\x" or "\o": "{1F600}".
std::optional<uint32_t> ReadBracedDigits(std::string_view pattern, size_t* position, int base) {
  if (*position >= pattern.size() || pattern[*position] != '{') {
    return std::nullopt;
  }
  size_t end = *position + 1;
  const std::optional<uint32_t> value = ReadDigits(pattern, &end, base, 11);
  if (!value || end >= pattern.size() || pattern[end] != '}') {
    return std::nullopt;
  }
  *position = end + 1;
  return value;
}

// The bytes of a code point, as "\xe3\x81\x82" spells them; `first` has been read.
char32_t ReadByteSequence(uint32_t first, std::string_view pattern, size_t* position,
                          std::string_view origin) {
  std::string bytes(1, static_cast<char>(first));
  const auto length = static_cast<size_t>(Utf8Length(bytes[0]));
  while (bytes.size() < length && pattern.substr(*position).starts_with("\\x")) {
    *position += 2;
    bytes += static_cast<char>(ReadDigits(pattern, position, 16, 2).value_or(0));
  }
  if (!IsValidUtf8(bytes)) {
    Break("bytes that are not UTF-8", pattern, origin);
  }
  size_t start = 0;
  return DecodeUtf8(bytes, &start);
}

}  // namespace

void CharacterSet::AddSet(const CharacterSet& set, bool negated) {
  if (negated) {
    AddPattern(set.Pattern(true));
    return;
  }
  content_ += set.content_;
  patterns_.insert(patterns_.end(), set.patterns_.begin(), set.patterns_.end());
}

std::string CharacterSet::Pattern(bool negated) const {
  if (patterns_.empty()) {
    return content_.empty() ? std::string(negated ? kAnyCodePoint : "(?!)")
                            : StrCat(negated ? "[^" : "[", content_, "]");
  }
  if (!negated && content_.empty() && patterns_.size() == 1) {
    return patterns_[0];
  }
  // Each alternative is one code point, so that there is nothing to come back to.
  std::string either = "(?>";
  if (!content_.empty()) {
    either += StrCat("[", content_, "]|");
  }
  for (size_t i = 0; i < patterns_.size(); ++i) {
    either += StrCat(i > 0 ? "|" : "", patterns_[i]);
  }
  either += ")";
  return negated ? StrCat("(?:(?!", either, ")", kAnyCodePoint, ")") : either;
}

std::string ReadCharacterClass(std::string_view pattern, size_t* position,
                               std::string_view origin) {
  ClassReader reader(pattern, *position, origin);
  std::string translated = reader.Read(0);
  *position = reader.position();
  return translated;
}

std::optional<CharacterSet> ReadSetEscape(std::string_view pattern, size_t* position,
                                          std::string_view origin) {
  const char letter = *position < pattern.size() ? pattern[*position] : '\0';
  switch (letter) {
    case 's':
    case 'S':
    case 'd':
    case 'D':
    case 'w':
    case 'W':
    case 'h':
    case 'H': {
      ++*position;
      const char lower = static_cast<char>(letter | 0x20);
      const std::string_view name = lower == 's'   ? "space"
                                    : lower == 'd' ? "digit"
                                    : lower == 'w' ? "word"
                                                   : "xdigit";
      CharacterSet set;
      set.AddSet(*FindPosixBracket(name), letter != lower);
      return set;
    }
    case 'p':
    case 'P':
      break;
    default:
      return std::nullopt;
  }
  const size_t end = pattern.find('}', *position);
  if (!pattern.substr(*position + 1).starts_with('{') || end == std::string_view::npos) {
    return std::nullopt;
  }
  std::string_view name = pattern.substr(*position + 2, end - *position - 2);
  bool negated = letter == 'P';
  if (name.starts_with('^')) {
    negated = !negated;
    name.remove_prefix(1);
  }
  const std::optional<CharacterSet> property = FindProperty(name);
  if (!property) {
    Break(StrCat("an unknown property ", QuoteForMessage(name)), pattern, origin);
  }
  *position = end + 1;
  CharacterSet set;
  set.AddSet(*property, negated);
  return set;
}

char32_t ReadCharacterEscape(std::string_view pattern, size_t* position, std::string_view origin) {
  if (*position >= pattern.size()) {
    Break("a backslash at the end", pattern, origin);
  }
  const size_t start = *position;
  const char32_t c = DecodeUtf8(pattern, position);
  std::optional<uint32_t> value;
  switch (c) {
    case 't':
      return '\t';
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    case 'a':
      return '\a';
    case 'e':
      return 0x1b;
    case 'x':
      value = ReadBracedDigits(pattern, position, 16);
      if (!value) {
        value = ReadDigits(pattern, position, 16, 2);
        if (value && *value >= 0x80) {
          return ReadByteSequence(*value, pattern, position, origin);
        }
        return value.value_or(0);
      }
      break;
    case 'o':
      value = ReadBracedDigits(pattern, position, 8);
      break;
    case 'u':
      value = ReadDigits(pattern, position, 16, 4);
      if (!value || *position - start != 5) {
        Break("\\u without four hexadecimal digits", pattern, origin);
      }
      break;
    case 'c':
      return *position < pattern.size() ? static_cast<char32_t>(pattern[(*position)++] & 0x1f) : c;
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
      --*position;
      value = ReadDigits(pattern, position, 8, 3);
      break;
    default:
      return c;
  }
  if (!value) {
    return c;
  }
  if (*value > 0x10ffff || (*value >= 0xd800 && *value < 0xe000)) {
    Break("a number that is no code point", pattern, origin);
  }
  return *value;
}

std::string QuoteCodePoint(char32_t c) {
  const bool is_alphanumeric =
      (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
  std::string out;
  if (is_alphanumeric) {
    AppendUtf8(c, &out);
    return out;
  }
  char buffer[16];
  std::snprintf(buffer, sizeof(buffer), "\\x{%x}", static_cast<unsigned>(c));
  return buffer;
}

}  // namespace dualfp
