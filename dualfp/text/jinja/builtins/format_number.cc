#include "dualfp/text/jinja/builtins/format_number.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/big_int.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

// No number has more digits behind its point than this without all others being zero.
constexpr int64_t kMaxPrecision = 1100;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

std::string Pad(Heap& heap, std::string_view text, const FormatOptions& options, char align) {
  const int64_t room = options.width - static_cast<int64_t>(CountCodePoints(text));
  if (room <= 0) {
    return std::string(text);
  }
  heap.ChargeBytes(static_cast<size_t>(room) * options.fill.size());
  const int64_t before = align == '>' ? room : align == '^' ? room / 2 : 0;
  std::string out;
  for (int64_t i = 0; i < before; ++i) {
    out += options.fill;
  }
  out += text;
  for (int64_t i = before; i < room; ++i) {
    out += options.fill;
  }
  return out;
}

// Separators between the digits of a whole number, counted from the right.
std::string GroupDigits(std::string_view digits, char separator, size_t size) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % size == 0) {
      out += separator;
    }
    out += digits[i];
  }
  return out;
}

// Puts sign, prefix ("0x"), digits and what follows them together, zeros and separators included.
std::string AssembleNumber(Heap& heap, bool negative, std::string_view prefix, std::string digits,
                           std::string_view rest, size_t group, const FormatOptions& options) {
  std::string sign = negative                                     ? "-"
                     : options.sign == '+' || options.sign == ' ' ? std::string(1, options.sign)
                                                                  : "";
  const char align = options.align == '\0' ? '>' : options.align;
  if (align == '=' && options.fill == "0") {
    // The zeros are digits, with separators of their own.
    const int64_t fixed = static_cast<int64_t>(sign.size() + prefix.size() + rest.size());
    heap.ChargeBytes(static_cast<size_t>(std::max<int64_t>(options.width, 0)));
    const auto length = [&](size_t count) {
      const size_t separators = options.grouping != '\0' && count > 0 ? (count - 1) / group : 0;
      return fixed + static_cast<int64_t>(count + separators);
    };
    size_t count = digits.size();
    if (options.grouping == '\0') {
      count += static_cast<size_t>(std::max<int64_t>(options.width - length(count), 0));
    } else {
      while (length(count) < options.width) {
        ++count;
      }
    }
    digits.insert(0, count - digits.size(), '0');
  }
  if (options.grouping != '\0') {
    digits = GroupDigits(digits, options.grouping, group);
  }
  std::string number = StrCat(prefix, digits, rest);
  if (align != '=') {
    return Pad(heap, StrCat(sign, number), options, align);
  }
  FormatOptions inner = options;
  inner.width -= static_cast<int64_t>(sign.size());
  return StrCat(sign, Pad(heap, number, inner, '>'));
}

std::string Print(const char* format, int64_t precision, double value) {
  std::string buffer(static_cast<size_t>(precision) + 400, '\0');
  const int size =
      std::snprintf(buffer.data(), buffer.size(), format, static_cast<int>(precision), value);
  buffer.resize(static_cast<size_t>(size));
  return buffer;
}

// By type g: `precision` significant digits, trailing zeros only with `alternate`. `keep_point`
// is for numbers without a type: they always look like floats.
std::string PrintGeneral(double value, int64_t precision, bool alternate, bool keep_point) {
  precision = std::max<int64_t>(precision, 1);
  std::string text = Print("%.*e", precision - 1, value);
  const size_t e = text.find('e');
  const int exponent = std::stoi(text.substr(e + 1));
  const bool with_exponent = exponent < -4 || exponent >= precision - (keep_point ? 1 : 0);
  std::string tail;
  if (with_exponent) {
    tail = text.substr(e);
    text.resize(e);
  } else {
    text = Print("%.*f", std::max<int64_t>(precision - 1 - exponent, 0), value);
  }
  if (!alternate && text.find('.') != std::string::npos) {
    text.resize(text.find_last_not_of('0') + 1);
    if (text.ends_with('.')) {
      text.pop_back();
    }
  }
  if (alternate && text.find('.') == std::string::npos) {
    text += '.';
  }
  if (keep_point && !with_exponent && text.find('.') == std::string::npos) {
    text += ".0";
  }
  return text + tail;
}

std::string PrintFloat(double value, const FormatOptions& options) {
  const int64_t precision = options.precision < 0 ? 6 : options.precision;
  switch (options.type) {
    case 'e':
    case 'E':
      return Print(options.alternate ? "%#.*e" : "%.*e", precision, value);
    case 'f':
    case 'F':
      return Print(options.alternate ? "%#.*f" : "%.*f", precision, value);
    case '%':
      return Print("%.*f", precision, value * 100);
    case 'g':
    case 'G':
    case 'n':
      return PrintGeneral(value, precision, options.alternate, false);
    default:
      return options.precision < 0 ? FormatDouble(value)
                                   : PrintGeneral(value, precision, options.alternate, true);
  }
}

}  // namespace

std::string FormatText(Heap& heap, std::string_view text, const FormatOptions& options) {
  if (options.precision >= 0) {
    text = text.substr(0, CodePointOffset(text, static_cast<size_t>(options.precision)));
  }
  return Pad(heap, text, options, options.align == '\0' ? '<' : options.align);
}

std::string FormatInteger(Heap& heap, const Value& value, const FormatOptions& options) {
  const BigInt number = ToBigInt(value);
  int base = 10;
  switch (options.type) {
    case '\0':
    case 'd':
    case 'n':
      break;
    case 'b':
      base = 2;
      break;
    case 'o':
      base = 8;
      break;
    case 'x':
    case 'X':
      base = 16;
      break;
    case 'c': {
      std::string character;
      AppendUtf8(static_cast<char32_t>(number.ToInt64().value_or(-1)), &character);
      return FormatText(heap, character, options);
    }
    default:
      return FormatFloat(heap, number.ToDouble(), options);
  }
  std::string digits = base == 10 ? number.ToString() : number.ToString(base);
  const bool negative = digits.starts_with('-');
  digits.erase(0, negative ? 1 : 0);
  std::string prefix;
  if (options.alternate && base != 10) {
    prefix = StrCat("0", std::string(1, options.type));
  }
  if (options.type == 'X') {
    std::transform(digits.begin(), digits.end(), digits.begin(), [](char c) {
      return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    });
  }
  return AssembleNumber(heap, negative, prefix, std::move(digits), "", base == 10 ? 3 : 4, options);
}

std::string FormatFloat(Heap& heap, double value, const FormatOptions& options) {
  if (options.precision > kMaxPrecision) {
    FailRuntime("precision too big in a format");
  }
  std::string text;
  if (std::isfinite(value)) {
    text = PrintFloat(std::abs(value), options);
  } else {
    text = std::isnan(value) ? "nan" : "inf";
  }
  text += options.type == '%' ? "%" : "";
  if (options.type == 'E' || options.type == 'F' || options.type == 'G') {
    std::transform(text.begin(), text.end(), text.begin(), [](char c) {
      return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    });
  }
  const auto whole_end = std::find_if_not(text.begin(), text.end(), IsDigit);
  const std::string rest(whole_end, text.end());
  text.erase(whole_end, text.end());
  return AssembleNumber(heap, std::signbit(value) && !std::isnan(value), "", std::move(text), rest,
                        3, options);
}

}  // namespace dualfp::jinja
