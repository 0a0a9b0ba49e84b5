// Values as text: Python's str(), repr() and json.dumps().

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/value.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

constexpr int kMaxDepth = 200;
constexpr char kHexDigits[] = "0123456789abcdef";

void AppendHex(char32_t value, int digits, std::string* out) {
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) {
    *out += kHexDigits[value >> shift & 15];
  }
}

// Python's limit on the length of integers as text.
constexpr size_t kMaxIntegerDigits = 4300;

std::string DigitsOf(const BigInt& number) {
  // A digit has 3.32 bits.
  std::string digits =
      number.BitCount() < kMaxIntegerDigits * 4 ? number.ToString() : std::string();
  if (digits.empty() || digits.size() > kMaxIntegerDigits + (number.IsNegative() ? 1 : 0)) {
    FailRuntime(
        StrCat("Exceeds the limit (", kMaxIntegerDigits, " digits) for integer string conversion"));
  }
  return digits;
}

void AppendStringRepr(std::string_view text, std::string* out) {
  const bool double_quotes =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = double_quotes ? '"' : '\'';
  *out += quote;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const char32_t c = DecodeUtf8(text, &i);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      *out += '\\';
      *out += static_cast<char>(c);
    } else if (c == '\n') {
      *out += "\\n";
    } else if (c == '\r') {
      *out += "\\r";
    } else if (c == '\t') {
      *out += "\\t";
    } else if (IsPrintable(c)) {
      *out += text.substr(begin, i - begin);
    } else if (c < 0x100) {
      *out += "\\x";
      AppendHex(c, 2, out);
    } else if (c < 0x10000) {
      *out += "\\u";
      AppendHex(c, 4, out);
    } else {
      *out += "\\U";
      AppendHex(c, 8, out);
    }
  }
  *out += quote;
}

class ReprWriter {
 public:
  explicit ReprWriter(Heap& heap) : heap_(heap) {}

  void Write(const Value& value, int depth, std::string* out) {
    heap_.ChargeSteps(1);
    if (depth > kMaxDepth) {
      FailRuntime(StrCat("values nested more than ", kMaxDepth, " levels deep"));
    }
    switch (value.kind()) {
      case Kind::kUndefined:
        *out += "Undefined";
        return;
      case Kind::kNone:
        *out += "None";
        return;
      case Kind::kBool:
        *out += value.as_int() != 0 ? "True" : "False";
        return;
      case Kind::kInt:
        *out += std::to_string(value.as_int());
        return;
      case Kind::kBigInt:
        *out += DigitsOf(value.as_big());
        return;
      case Kind::kFloat:
        *out += FormatDouble(value.as_double());
        return;
      case Kind::kString:
        heap_.ChargeText(value.text().size());
        AppendStringRepr(value.text(), out);
        return;
      case Kind::kList:
        WriteItems(value, '[', ']', depth, out);
        return;
      case Kind::kTuple:
        WriteItems(value, '(', ')', depth, out);
        return;
      case Kind::kDict:
      case Kind::kNamespace:
        WriteDict(value, depth, out);
        return;
      case Kind::kGenerator:
        *out += "<generator object>";
        return;
      case Kind::kFunction:
        *out += "<function>";
        return;
    }
  }

 private:
  void WriteItems(const Value& value, char open, char close, int depth, std::string* out) {
    *out += open;
    for (size_t i = 0; i < value.items().size(); ++i) {
      *out += i > 0 ? ", " : "";
      Write(value.items()[i], depth + 1, out);
    }
    *out += value.kind() == Kind::kTuple && value.items().size() == 1 ? "," : "";
    *out += close;
  }

  void WriteDict(const Value& value, int depth, std::string* out) {
    *out += value.kind() == Kind::kNamespace ? "<Namespace {" : "{";
    bool first = true;
    for (const auto& [key, item] : value.dict().items) {
      *out += first ? "" : ", ";
      first = false;
      Write(key, depth + 1, out);
      *out += ": ";
      Write(item, depth + 1, out);
    }
    *out += value.kind() == Kind::kNamespace ? "}>" : "}";
  }

  Heap& heap_;
};

class JsonWriter {
 public:
  JsonWriter(Heap& heap, const JsonStyle& style) : heap_(heap), style_(style) {}

  void Write(const Value& value, int depth, std::string* out) {
    heap_.ChargeSteps(1);
    if (depth > kMaxDepth) {
      FailRuntime(StrCat("values nested more than ", kMaxDepth, " levels deep"));
    }
    switch (value.kind()) {
      case Kind::kNone:
        *out += "null";
        return;
      case Kind::kBool:
        *out += value.as_int() != 0 ? "true" : "false";
        return;
      case Kind::kInt:
        *out += std::to_string(value.as_int());
        return;
      case Kind::kBigInt:
        *out += DigitsOf(value.as_big());
        return;
      case Kind::kFloat:
        WriteFloat(value.as_double(), out);
        return;
      case Kind::kString:
        WriteString(value.text(), out);
        return;
      case Kind::kList:
      case Kind::kTuple:
        WriteList(value, depth, out);
        return;
      case Kind::kDict:
        WriteDict(value, depth, out);
        return;
      default:
        FailRuntime(StrCat("Object of type ", TypeName(value), " is not JSON serializable"));
    }
  }

 private:
  static void WriteFloat(double value, std::string* out) {
    if (std::isfinite(value)) {
      *out += FormatDouble(value);
    } else {
      *out += std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
    }
  }

  void WriteEscape(char32_t unit, std::string* out) {
    *out += "\\u";
    AppendHex(unit, 4, out);
  }

  void WriteString(std::string_view text, std::string* out) {
    heap_.ChargeText(text.size());
    *out += '"';
    for (size_t i = 0; i < text.size();) {
      const size_t begin = i;
      const char32_t c = DecodeUtf8(text, &i);
      switch (c) {
        case '"':
          *out += "\\\"";
          break;
        case '\\':
          *out += "\\\\";
          break;
        case '\n':
          *out += "\\n";
          break;
        case '\r':
          *out += "\\r";
          break;
        case '\t':
          *out += "\\t";
          break;
        case '\b':
          *out += "\\b";
          break;
        case '\f':
          *out += "\\f";
          break;
        default:
          if (c < 0x20 || (style_.ensure_ascii && c >= 0x7f && c < 0x10000)) {
            if (c == 0x7f) {
              *out += '\x7f';
            } else {
              WriteEscape(c, out);
            }
          } else if (style_.ensure_ascii && c >= 0x10000) {
            WriteEscape(0xd800 + ((c - 0x10000) >> 10), out);
            WriteEscape(0xdc00 + ((c - 0x10000) & 0x3ff), out);
          } else {
            *out += text.substr(begin, i - begin);
          }
      }
    }
    *out += '"';
  }

  void NewLine(int depth, std::string* out) {
    if (style_.indent >= 0) {
      const int64_t count = style_.indent * depth;
      heap_.ChargeText(static_cast<size_t>(count) * style_.indent_text.size());
      *out += '\n';
      for (int64_t i = 0; i < count; ++i) {
        *out += style_.indent_text;
      }
    }
  }

  void WriteList(const Value& value, int depth, std::string* out) {
    if (value.items().empty()) {
      *out += "[]";
      return;
    }
    *out += '[';
    bool first = true;
    for (const Value& item : value.items()) {
      if (!std::exchange(first, false)) {
        *out += style_.item_separator;
      }
      NewLine(depth + 1, out);
      Write(item, depth + 1, out);
    }
    NewLine(depth, out);
    *out += ']';
  }

  void WriteDict(const Value& value, int depth, std::string* out) {
    const auto& items = value.dict().items;
    if (items.empty()) {
      *out += "{}";
      return;
    }
    std::vector<size_t> order(items.size());
    std::iota(order.begin(), order.end(), size_t{0});
    if (style_.sort_keys) {
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
        return Less(heap_, items[a].first, items[b].first);
      });
    }
    *out += '{';
    bool first = true;
    for (const size_t i : order) {
      if (!std::exchange(first, false)) {
        *out += style_.item_separator;
      }
      NewLine(depth + 1, out);
      WriteKey(items[i].first, out);
      *out += style_.key_separator;
      Write(items[i].second, depth + 1, out);
    }
    NewLine(depth, out);
    *out += '}';
  }

  // JSON keys are strings; Python turns numbers, bools and None into one.
  void WriteKey(const Value& key, std::string* out) {
    if (key.is_string()) {
      WriteString(key.text(), out);
    } else if (key.is_number() || key.is_none()) {
      *out += '"';
      Write(key, 0, out);
      *out += '"';
    } else {
      FailRuntime(StrCat("keys must be str, int, float, bool or None, not ", TypeName(key)));
    }
  }

  Heap& heap_;
  const JsonStyle& style_;
};

}  // namespace

std::string FormatDouble(double value) {
  if (std::isnan(value)) {
    return "nan";
  }
  if (std::isinf(value)) {
    return value > 0 ? "inf" : "-inf";
  }
  // Digits and exponent from the shortest scientific form; the layout is Python's.
  char buffer[40];
  const std::to_chars_result result =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string_view text(buffer, static_cast<size_t>(result.ptr - buffer));
  const size_t e = text.find('e');
  const int exponent = std::stoi(std::string(text.substr(e + 1)));
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') {
      digits += c;
    }
  }
  std::string out = text.front() == '-' ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) {
      out += '.' + digits.substr(1);
    }
    const int magnitude = std::abs(exponent);
    return out + (exponent < 0 ? "e-" : "e+") + (magnitude < 10 ? "0" : "") +
           std::to_string(magnitude);
  }
  if (exponent < 0) {
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  }
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) {
    return out + digits + std::string(whole - digits.size(), '0') + ".0";
  }
  return out + digits.substr(0, whole) + '.' + digits.substr(whole);
}

std::string ToRepr(Heap& heap, const Value& value) {
  std::string out;
  ReprWriter(heap).Write(value, 0, &out);
  return out;
}

std::string ToString(Heap& heap, const Value& value) {
  if (value.is_string()) {
    return std::string(value.text());
  }
  return value.is_undefined() ? "" : ToRepr(heap, value);
}

std::string ToJson(Heap& heap, const Value& value, const JsonStyle& style) {
  std::string out;
  JsonWriter(heap, style).Write(value, 0, &out);
  return out;
}

}  // namespace dualfp::jinja
