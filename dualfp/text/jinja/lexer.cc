#include "dualfp/text/jinja/lexer.h"

#include <algorithm>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/strings.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

// Longest first.
constexpr std::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                           "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                           ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool IsNamePart(char c) { return IsNameStart(c) || IsDigit(c); }

// \r\n and \r become \n; one newline at the end is dropped.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      i += i + 1 < source.size() && source[i + 1] == '\n' ? 1 : 0;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) {
    out.pop_back();
  }
  return out;
}

class Lexer {
 public:
  Lexer(std::string_view source, std::string_view origin)
      : source_(NormalizeNewlines(source)), text_(source_), origin_(origin) {}

  std::vector<Token> Run() {
    while (position_ < text_.size()) {
      LexData();
    }
    Add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void FailSyntax(const std::string& message) const {
    Fail(ErrorCode::kInvalidFile, origin_, ": line ", line_, ": ", message);
  }

  bool At(std::string_view expected) const { return text_.substr(position_).starts_with(expected); }

  void Advance(size_t count) {
    const std::string_view passed = text_.substr(position_, count);
    line_ += static_cast<int>(std::count(passed.begin(), passed.end(), '\n'));
    position_ += passed.size();
  }

  void SkipWhitespace() {
    size_t end = position_;
    for (size_t i = position_; i < text_.size() && IsPythonWhitespace(DecodeUtf8(text_, &i));) {
      end = i;
    }
    Advance(end - position_);
  }

  void Add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  // Text up to the next tag, and the tag.
  void LexData() {
    size_t tag = text_.find('{', position_);
    while (tag != std::string_view::npos && tag + 1 < text_.size() && text_[tag + 1] != '{' &&
           text_[tag + 1] != '%' && text_[tag + 1] != '#') {
      tag = text_.find('{', tag + 1);
    }
    if (tag == std::string_view::npos || tag + 1 >= text_.size()) {
      AddData(text_.substr(position_));
      Advance(text_.size() - position_);
      return;
    }
    const char kind = text_[tag + 1];
    const char sign = tag + 2 < text_.size() ? text_[tag + 2] : '\0';
    std::string_view data = text_.substr(position_, tag - position_);
    const bool has_sign = sign == '-' || sign == '+';
    AddData(StripBeforeTag(data, has_sign ? sign : '\0', kind != '{'));
    Advance(tag + 2 + (has_sign ? 1 : 0) - position_);
    if (kind == '#') {
      SkipComment();
    } else if (kind == '{') {
      Add(TokenKind::kVariableBegin, "");
      LexTag("}}", TokenKind::kVariableEnd);
    } else if (!LexRaw()) {
      Add(TokenKind::kBlockBegin, "");
      LexTag("%}", TokenKind::kBlockEnd);
    }
  }

  void AddData(std::string_view data) {
    if (!data.empty()) {
      Add(TokenKind::kData, std::string(data));
    }
  }

  // "-" takes all whitespace before the tag; otherwise a block that is first on its line takes the
  // indentation, unless it says "+".
  std::string_view StripBeforeTag(std::string_view data, char sign, bool is_block) const {
    if (sign == '-') {
      size_t end = 0;
      for (size_t i = 0; i < data.size();) {
        if (!IsPythonWhitespace(DecodeUtf8(data, &i))) {
          end = i;
        }
      }
      return data.substr(0, end);
    }
    if (sign == '+' || !is_block) {
      return data;
    }
    const size_t newline = data.rfind('\n');
    const bool at_line_start =
        newline != std::string_view::npos || position_ == 0 || text_[position_ - 1] == '\n';
    const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
    for (size_t i = line_begin; i < data.size();) {
      if (!IsPythonWhitespace(DecodeUtf8(data, &i))) {
        return data;
      }
    }
    return at_line_start ? data.substr(0, line_begin) : data;
  }

  // At the end of a block or comment: "-" takes all whitespace after it; otherwise a newline goes,
  // unless it says "+". False when the tag does not end here.
  bool SkipTagEnd(std::string_view end) {
    const bool minus = At("-") && text_.substr(position_ + 1).starts_with(end);
    const bool plus =
        !minus && At("+") && end != "}}" && text_.substr(position_ + 1).starts_with(end);
    if (!minus && !plus && !At(end)) {
      return false;
    }
    Advance(end.size() + (minus || plus ? 1 : 0));
    if (minus) {
      SkipWhitespace();
    } else if (!plus && end != "}}" && At("\n")) {
      Advance(1);
    }
    return true;
  }

  void SkipComment() {
    while (position_ < text_.size()) {
      if (SkipTagEnd("#}")) {
        return;
      }
      Advance(1);
    }
    FailSyntax("missing end of comment tag");
  }

  // After "{%": "raw %}" up to "{% endraw %}" is text.
  bool LexRaw() {
    const size_t begin = position_;
    const int line = line_;
    SkipWhitespace();
    const bool is_raw = At("raw");
    if (is_raw) {
      Advance(3);
      SkipWhitespace();
    }
    if (!is_raw || (!At("-%}") && !At("%}"))) {
      position_ = begin;
      line_ = line;
      return false;
    }
    // Unlike other tags, this one keeps the newline after it.
    const bool minus = At("-");
    Advance(minus ? 3 : 2);
    if (minus) {
      SkipWhitespace();
    }
    const size_t content = position_;
    for (size_t tag = text_.find("{%", position_); tag != std::string_view::npos;
         tag = text_.find("{%", tag + 2)) {
      Advance(tag - position_);
      const int tag_line = line_;
      const char sign = tag + 2 < text_.size() ? text_[tag + 2] : '\0';
      const bool has_sign = sign == '-' || sign == '+';
      Advance(has_sign ? 3 : 2);
      SkipWhitespace();
      if (At("endraw")) {
        Advance(6);
        SkipWhitespace();
        if (SkipTagEnd("%}")) {
          const size_t end = position_;
          position_ = content;  // where the data starts, for the rule about indentation
          const std::string_view data = text_.substr(content, tag - content);
          AddData(StripBeforeTag(data, has_sign ? sign : '\0', true));
          position_ = end;
          return true;
        }
      }
      position_ = tag;
      line_ = tag_line;
    }
    FailSyntax("missing end of raw directive");
  }

  // The inside of a variable or block tag.
  void LexTag(std::string_view end, TokenKind end_kind) {
    std::string open;  // the brackets that are open
    while (true) {
      if (open.empty() && SkipTagEnd(end)) {
        Add(end_kind, "");
        return;
      }
      if (position_ >= text_.size()) {
        FailSyntax("unexpected end of template inside a tag");
      }
      const char c = text_[position_];
      const size_t before = position_;
      SkipWhitespace();
      if (position_ != before) {
        continue;
      }
      if (IsDigit(c)) {
        LexNumber();
      } else if (IsNameStart(c)) {
        size_t name_end = position_;
        while (name_end < text_.size() && IsNamePart(text_[name_end])) {
          ++name_end;
        }
        Add(TokenKind::kName, std::string(text_.substr(position_, name_end - position_)));
        Advance(name_end - position_);
      } else if (c == '\'' || c == '"') {
        LexString(c);
      } else {
        LexOperator(&open);
      }
    }
  }

  void LexOperator(std::string* open) {
    for (const std::string_view op : kOperators) {
      if (!At(op)) {
        continue;
      }
      if (op == "(" || op == "[" || op == "{") {
        *open += op == "(" ? ')' : op == "[" ? ']' : '}';
      } else if (op == ")" || op == "]" || op == "}") {
        if (open->empty() || open->back() != op[0]) {
          FailSyntax(StrCat("unexpected '", op, "'"));
        }
        open->pop_back();
      }
      Add(TokenKind::kOperator, std::string(op));
      Advance(op.size());
      return;
    }
    size_t next = position_;
    DecodeUtf8(text_, &next);
    FailSyntax(StrCat("unexpected character '", text_.substr(position_, next - position_), "'"));
  }

  // Digits, with single underscores between them; returns where they end.
  size_t SkipDigits(size_t at) const {
    while (at < text_.size() &&
           (IsDigit(text_[at]) || (text_[at] == '_' && at + 1 < text_.size() &&
                                   IsDigit(text_[at + 1]) && IsDigit(text_[at - 1])))) {
      ++at;
    }
    return at;
  }

  // "0x1f", "0o17" or "0b101" at the position: where it ends; the position where it is none.
  size_t SkipPrefixed() const {
    const std::string_view rest = text_.substr(position_);
    const char letter = rest.size() > 2 && rest[0] == '0' ? static_cast<char>(rest[1] | 0x20) : ' ';
    const std::string_view digits = letter == 'x'   ? "0123456789abcdefABCDEF"
                                    : letter == 'o' ? "01234567"
                                    : letter == 'b' ? "01"
                                                    : "";
    size_t end = 2;
    while (end < rest.size() && (digits.find(rest[end]) != std::string_view::npos ||
                                 (rest[end] == '_' && end + 1 < rest.size() &&
                                  digits.find(rest[end + 1]) != std::string_view::npos))) {
      ++end;
    }
    return position_ + (!digits.empty() && end > 2 ? end : 0);
  }

  void LexNumber() {
    size_t end = SkipPrefixed();
    if (end > position_) {
      AddNumber(TokenKind::kInteger, end);
      return;
    }
    end = SkipDigits(position_);
    bool is_float = false;
    if (end + 1 < text_.size() && text_[end] == '.' && IsDigit(text_[end + 1])) {
      is_float = true;
      end = SkipDigits(end + 1);
    }
    if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      size_t exponent = end + 1;
      if (exponent < text_.size() && (text_[exponent] == '+' || text_[exponent] == '-')) {
        ++exponent;
      }
      if (exponent < text_.size() && IsDigit(text_[exponent])) {
        is_float = true;
        end = SkipDigits(exponent);
      }
    }
    AddNumber(is_float ? TokenKind::kFloat : TokenKind::kInteger, end);
  }

  void AddNumber(TokenKind kind, size_t end) {
    std::string digits(text_.substr(position_, end - position_));
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    Add(kind, std::move(digits));
    Advance(end - position_);
  }

  void LexString(char quote) {
    size_t end = position_ + 1;
    while (end < text_.size() && text_[end] != quote) {
      end += text_[end] == '\\' ? 2 : 1;
    }
    if (end >= text_.size()) {
      FailSyntax("unfinished string");
    }
    Add(TokenKind::kString, Unescape(text_.substr(position_ + 1, end - position_ - 1)));
    Advance(end + 1 - position_);
  }

  // Python's escapes.
  std::string Unescape(std::string_view body) const {
    std::string out;
    for (size_t i = 0; i < body.size(); ++i) {
      if (body[i] != '\\' || i + 1 >= body.size()) {
        out += body[i];
        continue;
      }
      const char c = body[++i];
      switch (c) {
        case '\n':
          break;
        case 'n':
          out += '\n';
          break;
        case 't':
          out += '\t';
          break;
        case 'r':
          out += '\r';
          break;
        case 'b':
          out += '\b';
          break;
        case 'f':
          out += '\f';
          break;
        case 'v':
          out += '\v';
          break;
        case 'a':
          out += '\a';
          break;
        case '\\':
        case '\'':
        case '"':
          out += c;
          break;
        case 'x':
          AppendUtf8(Hex(body, &i, 2), &out);
          break;
        case 'u':
          AppendUtf8(Hex(body, &i, 4), &out);
          break;
        case 'U':
          AppendUtf8(Hex(body, &i, 8), &out);
          break;
        default:
          if (c >= '0' && c <= '7') {
            char32_t value = 0;
            size_t end = std::min(i + 3, body.size());
            for (; i < end && body[i] >= '0' && body[i] <= '7'; ++i) {
              value = value * 8 + static_cast<char32_t>(body[i] - '0');
            }
            --i;
            AppendUtf8(value, &out);
          } else {
            out += '\\';
            out += c;
          }
      }
    }
    return out;
  }

  // The digits after body[*i].
  char32_t Hex(std::string_view body, size_t* i, int digits) const {
    char32_t value = 0;
    for (int d = 0; d < digits; ++d) {
      const char c = ++*i < body.size() ? body[*i] : '\0';
      const int digit = IsDigit(c)             ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) {
        FailSyntax("truncated escape in a string");
      }
      value = value * 16 + static_cast<char32_t>(digit);
    }
    return value;
  }

  std::string source_;
  std::string_view text_;
  std::string_view origin_;
  size_t position_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Tokenize(std::string_view source, std::string_view origin) {
  return Lexer(source, origin).Run();
}

}  // namespace dualfp::jinja
