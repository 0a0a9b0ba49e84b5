// Filters on numbers, as in jinja2/filters.py.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/big_int.h"
#include "dualfp/text/jinja/builtins/filters_internal.h"
#include "dualfp/text/jinja/strings.h"

namespace dualfp::jinja {
namespace {

// Python's limit on the digits of an integer.
constexpr size_t kMaxDigits = 4300;

// Python's float(): surrounding whitespace is fine, anything else around the number is not.
bool ParseFloat(std::string_view text, double* value) {
  const std::string digits(StripWhitespace(text, Side::kBoth));
  if (digits.empty() || digits.find_first_of("xXpP") != std::string::npos) {
    return false;
  }
  char* end = nullptr;
  *value = std::strtod(digits.c_str(), &end);
  return end == digits.c_str() + digits.size();
}

// Python's int(text, base): a prefix where it fits the base, underscores between digits.
std::optional<BigInt> ParseInteger(std::string_view text, int64_t base) {
  const bool has_sign = text.starts_with('-') || text.starts_with('+');
  const bool negative = text.starts_with('-');
  text.remove_prefix(has_sign ? 1 : 0);
  const char letter = text.size() > 2 && text[0] == '0' ? static_cast<char>(text[1] | 0x20) : ' ';
  const int64_t prefix_base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
  bool has_digit = false;
  if (prefix_base != 0 && (base == 0 || base == prefix_base)) {
    base = prefix_base;
    text.remove_prefix(2);
    has_digit = true;  // an underscore may follow the prefix
  }
  base = base == 0 ? 10 : base;
  if (base < 2 || base > 36 || text.size() > kMaxDigits) {
    return std::nullopt;
  }
  std::string digits = negative ? "-" : "";
  for (const char c : text) {
    if (c == '_' && !has_digit) {
      return std::nullopt;
    }
    has_digit = c != '_';
    digits += has_digit ? std::string(1, c) : "";
  }
  return has_digit && text.front() != '-' && text.front() != '+'
             ? BigInt::Parse(digits, static_cast<int>(base))
             : std::nullopt;
}

// To a multiple of a power of ten, halves to the even one.
Value RoundInteger(Heap& heap, const BigInt& value, int64_t digits) {
  const BigInt scale = BigInt(10).Power(static_cast<uint32_t>(digits));
  const BigInt quotient = value.FloorDividedBy(scale);
  const int half = value.Modulo(scale).Times(BigInt(2)).Compare(scale);
  const bool is_odd = !quotient.Modulo(BigInt(2)).IsZero();
  return heap.NewInt(quotient.Plus(BigInt(half > 0 || (half == 0 && is_odd) ? 1 : 0)).Times(scale));
}

}  // namespace

Value ToInt(FilterCall& call) {
  const Value otherwise = call.reader.GetOr("default", Value::Int(0));
  const int64_t base = call.reader.GetInt("base", 10);
  call.reader.Finish();
  if (call.operand.is_integer()) {
    return call.operand.is_int() ? Value::Int(call.operand.as_int()) : call.operand;
  }
  double number = 0;
  if (call.operand.is_string()) {
    const std::string_view digits = StripWhitespace(call.operand.text(), Side::kBoth);
    if (std::optional<BigInt> integer = ParseInteger(digits, base)) {
      return call.heap.NewInt(std::move(*integer));
    }
    if (!ParseFloat(digits, &number)) {
      return otherwise;
    }
  } else if (call.operand.kind() == Kind::kFloat) {
    number = call.operand.as_double();
  } else {
    CheckDefined(call.operand);
    return otherwise;
  }
  return std::isfinite(number) ? call.heap.NewInt(BigInt::FromDouble(std::trunc(number)))
                               : otherwise;
}

Value ToFloat(FilterCall& call) {
  const Value otherwise = call.reader.GetOr("default", Value::Float(0));
  call.reader.Finish();
  if (call.operand.is_number()) {
    return Value::Float(call.operand.as_double());
  }
  double number = 0;
  return call.operand.is_string() && ParseFloat(call.operand.text(), &number) ? Value::Float(number)
                                                                              : otherwise;
}

Value Round(FilterCall& call) {
  const int64_t precision = call.reader.GetInt("precision", 0);
  const std::string_view method = call.reader.GetString("method", "common");
  call.reader.Finish();
  if (!call.operand.is_number() || precision < -300 || precision > 300 ||
      (method != "common" && method != "ceil" && method != "floor")) {
    FailRuntime("round() expects a number, a small precision, and common, ceil or floor");
  }
  const double value = call.operand.as_double();
  if (method != "common") {
    const double scale = std::pow(10.0, static_cast<double>(precision));
    const double scaled = value * scale;
    return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
  }
  if (call.operand.is_integer()) {
    return precision >= 0 ? call.heap.NewInt(ToBigInt(call.operand))
                          : RoundInteger(call.heap, ToBigInt(call.operand), -precision);
  }
  if (precision < 0) {
    const double scale = std::pow(10.0, static_cast<double>(-precision));
    return Value::Float(std::nearbyint(value / scale) * scale);
  }
  char buffer[700];
  std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(precision), value);
  return Value::Float(std::strtod(buffer, nullptr));
}

Value Absolute(FilterCall& call) {
  if (!call.operand.is_number()) {
    FailRuntime(StrCat("bad operand type for abs(): '", TypeName(call.operand), "'"));
  }
  if (!call.operand.is_integer()) {
    return Value::Float(std::abs(call.operand.as_double()));
  }
  const BigInt number = ToBigInt(call.operand);
  return call.heap.NewInt(number.IsNegative() ? BigInt(0).Minus(number) : number);
}

}  // namespace dualfp::jinja
