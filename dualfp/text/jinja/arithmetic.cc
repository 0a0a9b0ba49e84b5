// Operators on values, with Python's rules.

#include <algorithm>
#include <cmath>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/big_int.h"
#include "dualfp/text/jinja/builtins/format.h"
#include "dualfp/text/jinja/evaluator.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

// Of an integer: more than Python is willing to write as text.
constexpr size_t kMaxBits = size_t{1} << 18;

[[noreturn]] void FailOperands(std::string_view op, const Value& a, const Value& b) {
  CheckDefined(a);
  CheckDefined(b);
  FailRuntime(StrCat("unsupported operand type(s) for ", op, ": '", TypeName(a), "' and '",
                     TypeName(b), "'"));
}

void CheckDivisor(bool is_zero) {
  if (is_zero) {
    FailRuntime("division by zero");
  }
}

Value Power(Heap& heap, const Value& a, const Value& b);

// Integers of which one, or the result, is larger than 64 bits.
Value BigArithmetic(Heap& heap, std::string_view op, const Value& a, const Value& b) {
  const BigInt left = ToBigInt(a);
  const BigInt right = ToBigInt(b);
  const size_t bits = left.BitCount() + right.BitCount();
  Check(bits <= kMaxBits, ErrorCode::kResourceExhausted, "the template computes integers of ", bits,
        " bits");
  heap.ChargeSteps(1 + static_cast<int64_t>(bits / 64 * (bits / 64)) / 16);
  if (op == "+") return heap.NewInt(left.Plus(right));
  if (op == "-") return heap.NewInt(left.Minus(right));
  if (op == "*") return heap.NewInt(left.Times(right));
  CheckDivisor(right.IsZero());
  if (op == "//") return heap.NewInt(left.FloorDividedBy(right));
  if (op == "%") return heap.NewInt(left.Modulo(right));
  const double quotient = left.ToDouble() / right.ToDouble();
  if (!std::isfinite(quotient)) {
    FailRuntime("integer division result too large for a float");
  }
  return Value::Float(quotient);
}

Value IntegerArithmetic(Heap& heap, std::string_view op, const Value& left, const Value& right) {
  if (op == "**") {
    return Power(heap, left, right);
  }
  if (!left.is_int() || !right.is_int()) {
    return BigArithmetic(heap, op, left, right);
  }
  const int64_t a = left.as_int();
  const int64_t b = right.as_int();
  int64_t result = 0;
  if ((op == "+" && !__builtin_add_overflow(a, b, &result)) ||
      (op == "-" && !__builtin_sub_overflow(a, b, &result)) ||
      (op == "*" && !__builtin_mul_overflow(a, b, &result))) {
    return Value::Int(result);
  }
  if (op == "/") {
    CheckDivisor(b == 0);
    return Value::Float(static_cast<double>(a) / static_cast<double>(b));
  }
  // The quotient of the smallest integer and -1 does not fit either.
  if (b != 0 && b != -1 && (op == "//" || op == "%")) {
    // Python rounds down, C++ towards zero.
    const bool adjust = a % b != 0 && (a < 0) != (b < 0);
    return Value::Int(op == "//" ? a / b - (adjust ? 1 : 0) : a % b + (adjust ? b : 0));
  }
  return BigArithmetic(heap, op, left, right);
}

Value FloatPower(double a, double b) {
  if (a == 0 && b < 0) {
    FailRuntime("0.0 cannot be raised to a negative power");
  }
  const double result = std::pow(a, b);
  if (std::isnan(result) && !std::isnan(a) && !std::isnan(b)) {
    FailRuntime("a negative number to a fractional power is not a real number");
  }
  if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) {
    FailRuntime("Numerical result out of range");
  }
  return Value::Float(result);
}

Value Power(Heap& heap, const Value& a, const Value& b) {
  const BigInt exponent = ToBigInt(b);
  if (exponent.IsNegative()) {
    return FloatPower(a.as_double(), b.as_double());
  }
  const BigInt base = ToBigInt(a);
  if (base.BitCount() <= 1) {  // -1, 0 or 1
    const bool is_odd = !exponent.Modulo(BigInt(2)).IsZero();
    return exponent.IsZero() || (base.IsNegative() && !is_odd) ? Value::Int(1) : heap.NewInt(base);
  }
  const int64_t count = exponent.ToInt64().value_or(kMaxBits);
  Check(count < static_cast<int64_t>(kMaxBits) &&
            base.BitCount() * static_cast<size_t>(count) <= kMaxBits,
        ErrorCode::kResourceExhausted, "the template computes integers of more than ", kMaxBits,
        " bits");
  const auto limbs = static_cast<int64_t>(base.BitCount() * static_cast<size_t>(count) / 64);
  heap.ChargeSteps(1 + limbs * limbs / 16);
  return heap.NewInt(base.Power(static_cast<uint32_t>(count)));
}

Value FloatArithmetic(std::string_view op, double a, double b) {
  if (op == "+") return Value::Float(a + b);
  if (op == "-") return Value::Float(a - b);
  if (op == "*") return Value::Float(a * b);
  if (op == "**") return FloatPower(a, b);
  CheckDivisor(b == 0);
  if (op == "/") return Value::Float(a / b);
  const double floor = std::floor(a / b);
  if (op == "//") return Value::Float(floor);
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) {
    remainder += b;
  }
  return Value::Float(remainder);
}

Value Repeat(Heap& heap, const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  const size_t size =
      value.is_string() ? value.text().size() : value.items().size() * sizeof(Value);
  // Checked before the memory is taken.
  if (size > 0 && count > static_cast<int64_t>((size_t{1} << 40) / size)) {
    heap.ChargeBytes(size_t{1} << 40);
  }
  heap.ChargeBytes(size * static_cast<size_t>(count));
  if (value.is_string()) {
    std::string text;
    for (int64_t i = 0; i < count; ++i) {
      text += value.text();
    }
    return heap.NewString(std::move(text), value.is_markup());
  }
  std::vector<Value> items;
  for (int64_t i = 0; i < count; ++i) {
    items.insert(items.end(), value.items().begin(), value.items().end());
  }
  return heap.NewSequence(value.kind(), std::move(items));
}

// The text of a string for joining it to others: escaped where one of them is markup.
std::string TextFor(Heap& heap, const Value& value, bool markup) {
  std::string text = ToString(heap, value);
  return markup && !(value.is_string() && value.is_markup()) ? EscapeHtml(text) : text;
}

}  // namespace

std::string EscapeHtml(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

Value Add(Heap& heap, const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    const bool markup = a.is_markup() || b.is_markup();
    heap.ChargeText(a.text().size() + b.text().size());
    return heap.NewString(TextFor(heap, a, markup) + TextFor(heap, b, markup), markup);
  }
  if (a.is_string()) {
    CheckDefined(b);
    FailRuntime(StrCat("can only concatenate str (not \"", TypeName(b), "\") to str"));
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    std::vector<Value> items = a.items();
    items.insert(items.end(), b.items().begin(), b.items().end());
    return heap.NewSequence(a.kind(), std::move(items));
  }
  return Arithmetic(heap, "+", a, b);
}

Value Arithmetic(Heap& heap, std::string_view op, const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return a.is_integer() && b.is_integer() ? IntegerArithmetic(heap, op, a, b)
                                            : FloatArithmetic(op, a.as_double(), b.as_double());
  }
  if (op == "*" && b.is_int() && (a.is_string() || a.is_sequence())) {
    return Repeat(heap, a, b.as_int());
  }
  if (op == "*" && a.is_int() && (b.is_string() || b.is_sequence())) {
    return Repeat(heap, b, a.as_int());
  }
  if (op == "%" && a.is_string()) {
    return heap.NewString(FormatPercent(heap, a.text(), b), a.is_markup());
  }
  FailOperands(op, a, b);
}

Value Concat(Heap& heap, const std::vector<Value>& values) {
  std::string text;
  for (const Value& value : values) {
    text += ToString(heap, value);
  }
  return heap.NewString(std::move(text));
}

Value Slice(Heap& heap, const Value& object, const Value& start, const Value& stop,
            const Value& step) {
  CheckDefined(object);
  if (!object.is_sequence() && !object.is_string()) {
    return Value::Undefined("slice", TypeName(object));
  }
  const int64_t length = Length(heap, object);
  const auto part = [&](const Value& value, int64_t otherwise) {
    if (value.is_none()) {
      return otherwise;
    }
    if (!value.is_int()) {
      FailRuntime("slice indices must be integers or None");
    }
    return value.as_int();
  };
  const int64_t stride = part(step, 1);
  if (stride == 0) {
    FailRuntime("slice step cannot be zero");
  }
  // Python's PySlice_AdjustIndices.
  const int64_t lowest = stride < 0 ? -1 : 0;
  const int64_t highest = stride < 0 ? length - 1 : length;
  const auto adjust = [&](int64_t index) {
    if (index < 0) {
      index = index < -length ? lowest : index + length;
    }
    return std::clamp(index, lowest, std::max(highest, lowest));
  };
  const int64_t begin = start.is_none() ? (stride < 0 ? highest : 0) : adjust(part(start, 0));
  const int64_t end = stop.is_none() ? (stride < 0 ? -1 : length) : adjust(part(stop, 0));

  if (object.is_string() && stride == 1) {
    const std::string_view text = object.text();
    const size_t first = CodePointOffset(text, static_cast<size_t>(begin));
    const size_t count = static_cast<size_t>(std::max<int64_t>(end - begin, 0));
    heap.ChargeText(text.size());
    return Value::String(text.substr(first, CodePointOffset(text.substr(first), count)),
                         object.is_markup());
  }
  const std::vector<Value> items = Iterate(heap, object);
  std::vector<Value> taken;
  for (int64_t i = begin; stride > 0 ? i < end : i > end;) {
    taken.push_back(items[static_cast<size_t>(i)]);
    if (__builtin_add_overflow(i, stride, &i)) {
      break;
    }
  }
  if (object.is_sequence()) {
    return heap.NewSequence(object.kind(), std::move(taken));
  }
  std::string text;
  for (const Value& character : taken) {
    text += character.text();
  }
  return heap.NewString(std::move(text), object.is_markup());
}

}  // namespace dualfp::jinja
