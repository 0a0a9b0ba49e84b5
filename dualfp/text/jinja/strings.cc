#include "dualfp/text/jinja/strings.h"

#include <algorithm>

#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

template <typename Drop>
std::string_view StripIf(std::string_view text, Side side, Drop drop) {
  size_t begin = 0;
  if (side != Side::kRight) {
    for (size_t i = 0; i < text.size() && drop(DecodeUtf8(text, &i));) {
      begin = i;
    }
  }
  text.remove_prefix(begin);
  while (side != Side::kLeft && !text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && IsUtf8Continuation(text[last])) {
      --last;
    }
    size_t position = last;
    if (!drop(DecodeUtf8(text, &position))) {
      break;
    }
    text = text.substr(0, last);
  }
  return text;
}

// What str.splitlines() splits at.
bool IsLineBreak(char32_t c) {
  return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

std::string MapWords(std::string_view text, bool (*is_boundary)(char32_t)) {
  std::string out;
  bool at_start = true;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const char32_t c = DecodeUtf8(text, &i);
    const std::string_view character = text.substr(begin, i - begin);
    out += at_start ? ToUpper(character) : ToLower(character);
    at_start = is_boundary(c);
  }
  return out;
}

}  // namespace

bool IsPythonWhitespace(char32_t c) { return IsWhitespace(c) || (c >= 0x1c && c <= 0x1f); }

std::string_view StripWhitespace(std::string_view text, Side side) {
  return StripIf(text, side, IsPythonWhitespace);
}

std::string_view StripCharacters(std::string_view text, std::string_view characters, Side side) {
  return StripIf(text, side, [&](char32_t c) {
    for (size_t i = 0; i < characters.size();) {
      if (DecodeUtf8(characters, &i) == c) {
        return true;
      }
    }
    return false;
  });
}

std::vector<std::string_view> Split(std::string_view text, std::string_view separator,
                                    int64_t limit, bool from_right) {
  std::vector<std::string_view> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) {
      break;
    }
    if (from_right) {
      parts.push_back(text.substr(at + separator.size()));
      text = text.substr(0, at);
    } else {
      parts.push_back(text.substr(0, at));
      text.remove_prefix(at + separator.size());
    }
  }
  parts.push_back(text);
  if (from_right) {
    std::reverse(parts.begin(), parts.end());
  }
  return parts;
}

std::vector<std::string_view> SplitWhitespace(std::string_view text, int64_t limit,
                                              bool from_right) {
  std::vector<std::string_view> parts;
  text = StripWhitespace(text, from_right ? Side::kRight : Side::kLeft);
  while (!text.empty()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      // The rest stays whole but for the whitespace at its far end, which strip() has not seen.
      parts.push_back(text);
      break;
    }
    if (!from_right) {
      size_t end = 0;
      for (size_t i = 0; i < text.size() && !IsPythonWhitespace(DecodeUtf8(text, &i));) {
        end = i;
      }
      parts.push_back(text.substr(0, end));
      text = StripWhitespace(text.substr(end), Side::kLeft);
    } else {
      size_t begin = text.size();
      while (begin > 0) {
        size_t last = begin - 1;
        while (last > 0 && IsUtf8Continuation(text[last])) {
          --last;
        }
        size_t position = last;
        if (IsPythonWhitespace(DecodeUtf8(text, &position))) {
          break;
        }
        begin = last;
      }
      parts.push_back(text.substr(begin));
      text = StripWhitespace(text.substr(0, begin), Side::kRight);
    }
  }
  if (from_right) {
    std::reverse(parts.begin(), parts.end());
  }
  return parts;
}

std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t end = i;
    const char32_t c = DecodeUtf8(text, &i);
    if (!IsLineBreak(c)) {
      continue;
    }
    if (c == '\r' && i < text.size() && text[i] == '\n') {
      ++i;
    }
    lines.push_back(text.substr(begin, (keep_ends ? i : end) - begin));
    begin = i;
  }
  if (begin < text.size()) {
    lines.push_back(text.substr(begin));
  }
  return lines;
}

std::string ReplaceAll(std::string_view text, std::string_view old_text, std::string_view new_text,
                       int64_t count) {
  std::string out;
  if (old_text.empty()) {
    // Python puts the new text before every character and at the end.
    int64_t done = 0;
    for (size_t i = 0; i < text.size();) {
      if (count < 0 || done < count) {
        out += new_text;
        ++done;
      }
      const size_t begin = i;
      DecodeUtf8(text, &i);
      out += text.substr(begin, i - begin);
    }
    if (count < 0 || done < count) {
      out += new_text;
    }
    return out;
  }
  for (int64_t done = 0; count < 0 || done < count; ++done) {
    const size_t at = text.find(old_text);
    if (at == std::string_view::npos) {
      break;
    }
    out += text.substr(0, at);
    out += new_text;
    text.remove_prefix(at + old_text.size());
  }
  out += text;
  return out;
}

std::string Capitalize(std::string_view text) {
  const size_t first = CodePointOffset(text, 1);
  return ToUpper(text.substr(0, first)) + ToLower(text.substr(first));
}

std::string TitleCase(std::string_view text) {
  return MapWords(text, [](char32_t c) { return !IsLetter(c); });
}

std::string TitleWords(std::string_view text) {
  return MapWords(text, [](char32_t c) {
    return IsPythonWhitespace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  });
}

std::string SwapCase(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const char32_t c = DecodeUtf8(text, &i);
    const std::string_view character = text.substr(begin, i - begin);
    out += IsUpper(c) ? ToLower(character) : ToUpper(character);
  }
  return out;
}

std::string IndentLines(std::string_view text, std::string_view indent, bool first, bool blank) {
  // A newline at the end keeps its (empty) last line.
  const std::string whole = std::string(text) + '\n';
  std::string out;
  bool is_first = true;
  for (const std::string_view line : SplitLines(whole, false)) {
    if (!is_first) {
      out += '\n';
    }
    if (is_first ? first : blank || !line.empty()) {
      out += indent;
    }
    out += line;
    is_first = false;
  }
  return out;
}

bool AnyOf(std::string_view text, bool (*holds)(char32_t)) {
  for (size_t i = 0; i < text.size();) {
    if (holds(DecodeUtf8(text, &i))) {
      return true;
    }
  }
  return false;
}

bool AllOf(std::string_view text, bool (*holds)(char32_t)) {
  for (size_t i = 0; i < text.size();) {
    if (!holds(DecodeUtf8(text, &i))) {
      return false;
    }
  }
  return !text.empty();
}

bool IsLetter(char32_t c) { return IsInCategory(c, "L"); }
bool IsDecimalDigit(char32_t c) { return IsInCategory(c, "Nd"); }
bool IsUpper(char32_t c) { return IsInCategory(c, "Lu"); }
bool IsLower(char32_t c) { return IsInCategory(c, "Ll"); }

}  // namespace dualfp::jinja
