// Operators on values, with Python's rules.

#include <algorithm>
#include <cmath>
#include <limits>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/evaluator.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

constexpr int64_t kIntMin = std::numeric_limits<int64_t>::min();

[[noreturn]] void FailOperands(std::string_view op, const Value& a, const Value& b) {
  CheckDefined(a);
  CheckDefined(b);
  FailRuntime(StrCat("unsupported operand type(s) for ", op, ": '", TypeName(a), "' and '",
                     TypeName(b), "'"));
}

[[noreturn]] void FailOverflow() { FailRuntime("integer out of the range of 64 bits"); }

Value IntegerArithmetic(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+") {
    if (__builtin_add_overflow(a, b, &result)) FailOverflow();
  } else if (op == "-") {
    if (__builtin_sub_overflow(a, b, &result)) FailOverflow();
  } else if (op == "*") {
    if (__builtin_mul_overflow(a, b, &result)) FailOverflow();
  } else if (op == "**") {
    if (b < 0) {
      return Value::Float(std::pow(static_cast<double>(a), static_cast<double>(b)));
    }
    result = 1;
    for (int64_t i = 0; i < b && (a != 1 && a != 0 && a != -1); ++i) {
      if (__builtin_mul_overflow(result, a, &result)) FailOverflow();
    }
    if (a == 0 && b > 0) result = 0;
    if (a == -1 && b % 2 != 0) result = -1;
  } else {
    if (b == 0) {
      FailRuntime("division by zero");
    }
    if (op == "/") {
      return Value::Float(static_cast<double>(a) / static_cast<double>(b));
    }
    if (a == kIntMin && b == -1) {
      if (op == "%") return Value::Int(0);
      FailOverflow();
    }
    // Python rounds down, C++ towards zero.
    const bool adjust = a % b != 0 && (a < 0) != (b < 0);
    result = op == "//" ? a / b - (adjust ? 1 : 0) : a % b + (adjust ? b : 0);
  }
  return Value::Int(result);
}

Value FloatArithmetic(std::string_view op, double a, double b) {
  if (op == "+") return Value::Float(a + b);
  if (op == "-") return Value::Float(a - b);
  if (op == "*") return Value::Float(a * b);
  if (op == "**") return Value::Float(std::pow(a, b));
  if (b == 0) {
    FailRuntime("division by zero");
  }
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
    return a.is_int() && b.is_int() ? IntegerArithmetic(op, a.as_int(), b.as_int())
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

std::string FormatPercent(Heap& heap, std::string_view format, const Value& values) {
  std::vector<Value> arguments;
  if (values.kind() == Kind::kTuple) {
    arguments = values.items();
  } else {
    arguments.push_back(values);
  }
  size_t next = 0;
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    ++i;
    if (i < format.size() && format[i] == '%') {
      out += '%';
      continue;
    }
    int precision = -1;
    if (i + 1 < format.size() && format[i] == '.') {
      precision = 0;
      for (++i; i < format.size() && format[i] >= '0' && format[i] <= '9'; ++i) {
        precision = std::min(precision * 10 + (format[i] - '0'), 300);
      }
    }
    const char conversion = i < format.size() ? format[i] : '\0';
    if (std::string_view("srdif").find(conversion) == std::string_view::npos ||
        conversion == '\0') {
      FailRuntime("unsupported format character in a % format");
    }
    if (next == arguments.size()) {
      FailRuntime("not enough arguments for format string");
    }
    const Value& value = arguments[next++];
    if (conversion == 's' || conversion == 'r') {
      const std::string text = conversion == 's' ? ToString(heap, value) : ToRepr(heap, value);
      out += precision < 0 ? text
                           : text.substr(0, CodePointOffset(text, static_cast<size_t>(precision)));
    } else if (!value.is_number()) {
      FailRuntime(
          StrCat("%", conversion, " format: a real number is required, not ", TypeName(value)));
    } else if (conversion == 'f') {
      char buffer[700];
      const int size = std::snprintf(buffer, sizeof(buffer), "%.*f", precision < 0 ? 6 : precision,
                                     value.as_double());
      out.append(buffer, static_cast<size_t>(size));
    } else {
      const double number = std::trunc(value.as_double());
      if (!value.is_int() && !(std::abs(number) < 9.2e18)) {
        FailOverflow();
      }
      out += std::to_string(value.is_int() ? value.as_int() : static_cast<int64_t>(number));
    }
  }
  if (next < arguments.size() && !values.is_dict()) {
    FailRuntime("not all arguments converted during string formatting");
  }
  heap.ChargeText(out.size());
  return out;
}

}  // namespace dualfp::jinja
