#include "dualfp/text/jinja/builtins/format.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/big_int.h"
#include "dualfp/text/jinja/builtins/format_number.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

constexpr int64_t kMaxFormatNumber = 100'000'000;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Digits at text[*at]; nothing when there are none.
std::optional<int64_t> ReadNumber(std::string_view text, size_t* at) {
  if (*at >= text.size() || !IsDigit(text[*at])) {
    return std::nullopt;
  }
  int64_t number = 0;
  for (; *at < text.size() && IsDigit(text[*at]); ++*at) {
    number = number * 10 + (text[*at] - '0');
    if (number > kMaxFormatNumber) {
      FailRuntime("too many decimal digits in format string");
    }
  }
  return number;
}

// Python's str(), repr() and ascii(), by the letter that formats have for them.
std::string Converted(Heap& heap, const Value& value, char conversion) {
  if (conversion == 's') {
    return ToString(heap, value);
  }
  std::string text = ToRepr(heap, value);
  if (conversion == 'r') {
    return text;
  }
  std::string ascii;
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<uint32_t>(DecodeUtf8(text, &i));
    if (c < 0x80) {
      ascii += static_cast<char>(c);
      continue;
    }
    constexpr std::string_view kHex = "0123456789abcdef";
    const int digits = c < 0x100 ? 2 : c < 0x10000 ? 4 : 8;
    ascii += digits == 2 ? "\\x" : digits == 4 ? "\\u" : "\\U";
    for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) {
      ascii += kHex[c >> shift & 15];
    }
  }
  return ascii;
}

bool IsAlignment(std::string_view text) {
  return !text.empty() && std::string_view("<>=^").find(text[0]) != std::string_view::npos;
}

FormatOptions ParseSpecification(std::string_view text) {
  FormatOptions options;
  size_t at = 0;
  const size_t first = text.empty() ? 0 : CodePointOffset(text, 1);
  if (IsAlignment(text.substr(first)) && first > 0) {
    options.fill = text.substr(0, first);
    options.align = text[first];
    at = first + 1;
  } else if (IsAlignment(text)) {
    options.align = text[0];
    at = 1;
  }
  const auto skip = [&](char c) {
    const bool found = at < text.size() && text[at] == c;
    at += found ? 1 : 0;
    return found;
  };
  for (const char sign : {'+', '-', ' '}) {
    if (skip(sign)) {
      options.sign = sign;
      break;
    }
  }
  options.alternate = skip('#');
  if (skip('0') && options.align == '\0') {
    options.fill = "0";
    options.align = '=';
  }
  options.width = ReadNumber(text, &at).value_or(0);
  for (const char separator : {',', '_'}) {
    if (skip(separator)) {
      options.grouping = separator;
    }
  }
  if (skip('.')) {
    const std::optional<int64_t> precision = ReadNumber(text, &at);
    if (!precision) {
      FailRuntime("Format specifier missing precision");
    }
    options.precision = *precision;
  }
  if (at < text.size()) {
    options.type = text[at++];
  }
  if (at < text.size()) {
    FailRuntime(StrCat("Invalid format specifier '", text, "'"));
  }
  return options;
}

void CheckType(const FormatOptions& options, std::string_view types, const Value& value) {
  if (options.type != '\0' && types.find(options.type) == std::string_view::npos) {
    FailRuntime(StrCat("Unknown format code '", std::string(1, options.type),
                       "' for object of type '", TypeName(value), "'"));
  }
}

class BraceFormatter {
 public:
  BraceFormatter(Evaluator& evaluator, const Arguments& arguments)
      : evaluator_(evaluator), heap_(evaluator.heap()), arguments_(arguments) {}

  std::string Format(std::string_view format, int depth) {
    if (depth > 2) {
      FailRuntime("Max string recursion exceeded");
    }
    std::string out;
    for (size_t i = 0; i < format.size(); ++i) {
      const char c = format[i];
      if (c != '{' && c != '}') {
        out += c;
      } else if (i + 1 < format.size() && format[i + 1] == c) {
        out += c;
        ++i;
      } else if (c == '}') {
        FailRuntime("Single '}' encountered in format string");
      } else {
        const size_t end = FieldEnd(format, i + 1);
        out += Field(format.substr(i + 1, end - i - 1), depth);
        i = end;
      }
      heap_.ChargeText(out.size() / 64);
    }
    return out;
  }

 private:
  // Where the "}" of the field is.
  static size_t FieldEnd(std::string_view format, size_t begin) {
    int open = 1;
    for (size_t i = begin; i < format.size(); ++i) {
      open += format[i] == '{' ? 1 : format[i] == '}' ? -1 : 0;
      if (open == 0) {
        return i;
      }
    }
    FailRuntime("expected '}' before end of string");
  }

  // name[.attribute | [index]]...[!conversion][:specification]
  std::string Field(std::string_view field, int depth) {
    size_t end = 0;
    while (end < field.size() && field[end] != '!' && field[end] != ':') {
      end = field[end] == '[' ? std::min(field.find(']', end), field.size() - 1) + 1 : end + 1;
    }
    Value value = Lookup(field.substr(0, end));
    if (end < field.size() && field[end] == '!') {
      const char conversion = end + 1 < field.size() ? field[end + 1] : '\0';
      if (conversion != 's' && conversion != 'r' && conversion != 'a') {
        FailRuntime("Unknown conversion specifier in a format");
      }
      value = heap_.NewString(Converted(heap_, value, conversion));
      end += 2;
    }
    if (end < field.size() && field[end] != ':') {
      FailRuntime("expected ':' after conversion specifier");
    }
    const std::string specification =
        end < field.size() ? Format(field.substr(end + 1), depth + 1) : "";
    return FormatValue(heap_, value, specification);
  }

  Value Lookup(std::string_view name) {
    const size_t end = std::min(name.find_first_of(".["), name.size());
    Value value = Argument(name.substr(0, end));
    for (size_t at = end; at < name.size();) {
      if (name[at] == '.') {
        const size_t next = std::min(name.find_first_of(".[", at + 1), name.size());
        value = evaluator_.GetAttribute(value, name.substr(at + 1, next - at - 1));
        at = next;
      } else {
        const size_t close = name.find(']', at);
        if (name[at] != '[' || close == std::string_view::npos) {
          FailRuntime("Missing ']' in format string");
        }
        const std::string_view index = name.substr(at + 1, close - at - 1);
        value = evaluator_.GetItem(
            value, IsNumber(index) ? Value::Int(std::stoll(std::string(index)))
                                   : Value::String(heap_.NewString(std::string(index)).text()));
        at = close + 1;
      }
    }
    return value;
  }

  static bool IsNumber(std::string_view text) {
    return !text.empty() && text.size() < 10 && std::all_of(text.begin(), text.end(), IsDigit);
  }

  Value Argument(std::string_view name) {
    if (name.empty() || IsNumber(name)) {
      const size_t index = name.empty() ? next_++ : std::stoul(std::string(name));
      (name.empty() ? automatic_ : manual_) = true;
      if (automatic_ && manual_) {
        FailRuntime("cannot mix manual and automatic field numbering in a format");
      }
      if (index >= arguments_.positional.size()) {
        FailRuntime(StrCat("Replacement index ", index, " out of range for positional args tuple"));
      }
      return arguments_.positional[index];
    }
    for (const auto& [keyword, value] : arguments_.keywords) {
      if (keyword == name) {
        return value;
      }
    }
    FailRuntime(StrCat("format() cannot fill the field '", name, "'"));
  }

  Evaluator& evaluator_;
  Heap& heap_;
  const Arguments& arguments_;
  size_t next_ = 0;
  bool automatic_ = false;
  bool manual_ = false;
};

class PercentFormatter {
 public:
  PercentFormatter(Heap& heap, const Value& values) : heap_(heap), values_(values) {
    if (values.kind() == Kind::kTuple) {
      arguments_ = values.items();
    } else {
      arguments_.push_back(values);
    }
  }

  std::string Format(std::string_view format) {
    std::string out;
    for (size_t at = 0; at < format.size();) {
      if (format[at] != '%') {
        out += format[at++];
        continue;
      }
      ++at;
      out += Conversion(format, &at);
    }
    if (next_ < arguments_.size() && !values_.is_dict()) {
      FailRuntime("not all arguments converted during string formatting");
    }
    heap_.ChargeText(out.size());
    return out;
  }

 private:
  const Value& Next() {
    if (next_ >= arguments_.size()) {
      FailRuntime("not enough arguments for format string");
    }
    return arguments_[next_++];
  }

  int64_t NumberOrStar(std::string_view format, size_t* at, int64_t otherwise) {
    if (*at < format.size() && format[*at] == '*') {
      ++*at;
      const Value& value = Next();
      if (!value.is_int()) {
        FailRuntime("* wants int");
      }
      return value.as_int();
    }
    return ReadNumber(format, at).value_or(otherwise);
  }

  // After the "%".
  std::string Conversion(std::string_view format, size_t* at) {
    const Value* named = nullptr;
    if (*at < format.size() && format[*at] == '(') {
      const size_t end = format.find(')', *at);
      if (!values_.is_dict() || end == std::string_view::npos) {
        FailRuntime("format requires a mapping");
      }
      const std::string_view key = format.substr(*at + 1, end - *at - 1);
      named = FindKey(values_.dict(), key);
      if (named == nullptr) {
        FailRuntime(StrCat("the mapping of a % format has no '", key, "'"));
      }
      *at = end + 1;
    }
    FormatOptions options;
    options.align = '>';
    bool zeros = false;
    for (; *at < format.size() && std::string_view("#0- +").find(format[*at]) != std::string::npos;
         ++*at) {
      switch (format[*at]) {
        case '#':
          options.alternate = true;
          break;
        case '0':
          zeros = true;
          break;
        case '-':
          options.align = '<';
          break;
        default:
          options.sign = options.sign == '+' ? '+' : format[*at];
      }
    }
    options.width = NumberOrStar(format, at, 0);
    if (options.width < 0) {
      options.align = '<';
      options.width = -options.width;
    }
    if (*at < format.size() && format[*at] == '.') {
      ++*at;
      options.precision = std::max<int64_t>(NumberOrStar(format, at, 0), 0);
    }
    while (*at < format.size() && std::string_view("hlL").find(format[*at]) != std::string::npos) {
      ++*at;
    }
    const char type = *at < format.size() ? format[(*at)++] : '\0';
    if (type == '%') {
      return "%";
    }
    if (type == '\0' || std::string_view("diouxXeEfFgGcrsa").find(type) == std::string::npos) {
      FailRuntime("unsupported format character in a % format");
    }
    const Value& value = named != nullptr ? *named : Next();
    if (type == 's' || type == 'r' || type == 'a') {
      return FormatText(heap_, Converted(heap_, value, type), options);
    }
    if (type == 'c' && value.is_string() && CountCodePoints(value.text()) == 1) {
      options.precision = -1;
      return FormatText(heap_, value.text(), options);
    }
    options.type = type == 'i' || type == 'u' ? 'd' : type;
    if (zeros && options.align != '<') {
      options.fill = "0";
      options.align = '=';
    }
    return Number(value, options);
  }

  std::string Number(const Value& value, const FormatOptions& options) {
    if (!value.is_number()) {
      FailRuntime(StrCat("%", std::string(1, options.type),
                         " format: a real number is required, not ", TypeName(value)));
    }
    if (std::string_view("doxXc").find(options.type) == std::string_view::npos) {
      return FormatFloat(heap_, value.as_double(), options);
    }
    if (value.kind() == Kind::kFloat) {
      if (options.type != 'd' || !std::isfinite(value.as_double())) {
        FailRuntime(StrCat("%", std::string(1, options.type),
                           " format: an integer is required, not float"));
      }
      return Number(heap_.NewInt(BigInt::FromDouble(value.as_double())), options);
    }
    if (options.precision <= 0) {
      return FormatInteger(heap_, value, options);
    }
    // A precision is a least number of digits.
    FormatOptions digits = options;
    digits.width = options.precision +
                   (ToBigInt(value).IsNegative() || options.sign != '-' ? 1 : 0) +
                   (options.alternate && options.type != 'd' ? 2 : 0);
    digits.fill = "0";
    digits.align = '=';
    FormatOptions outer = options;
    outer.precision = -1;
    return FormatText(heap_, FormatInteger(heap_, value, digits), outer);
  }

  Heap& heap_;
  const Value& values_;
  std::vector<Value> arguments_;
  size_t next_ = 0;
};

}  // namespace

std::string FormatValue(Heap& heap, const Value& value, std::string_view specification) {
  if (specification.empty()) {
    return ToString(heap, value);
  }
  const FormatOptions options = ParseSpecification(specification);
  if (value.is_string()) {
    CheckType(options, "s", value);
    FormatOptions text = options;
    if (text.align == '=') {
      if (text.fill != "0") {
        FailRuntime("'=' alignment not allowed in string format specifier");
      }
      text.align = '<';
    }
    return FormatText(heap, value.text(), text);
  }
  if (value.is_integer()) {
    CheckType(options, "bcdnoxXeEfFgG%", value);
    return FormatInteger(heap, value, options);
  }
  if (value.kind() == Kind::kFloat) {
    CheckType(options, "eEfFgGn%", value);
    return FormatFloat(heap, value.as_double(), options);
  }
  FailRuntime(StrCat("unsupported format string passed to ", TypeName(value), ".__format__"));
}

std::string FormatBraces(Evaluator& evaluator, std::string_view format,
                         const Arguments& arguments) {
  return BraceFormatter(evaluator, arguments).Format(format, 0);
}

std::string FormatPercent(Heap& heap, std::string_view format, const Value& values) {
  return PercentFormatter(heap, values).Format(format);
}

}  // namespace dualfp::jinja
