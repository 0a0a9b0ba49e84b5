// The filters of the template language, as in jinja2/filters.py; tojson as transformers has it.
// Those on sequences are in sequence_filters.cc.

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/filters_internal.h"
#include "dualfp/text/jinja/strings.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

Value Join(FilterCall& call) {
  const Value separator = call.reader.GetOr("d", Value::String(""));
  const Value attribute = call.reader.GetOr("attribute", Value::None());
  call.reader.Finish();
  const std::string between = ToString(call.heap, separator);
  std::string text;
  bool first = true;
  for (const Value& item : Iterate(call.heap, call.operand)) {
    if (!first) {
      text += between;
      call.heap.ChargeText(between.size());
    }
    first = false;
    text += ToString(call.heap, FollowPath(call.evaluator, item, attribute, nullptr));
  }
  return call.heap.NewString(std::move(text));
}

Value Indent(FilterCall& call) {
  const Value width = call.reader.GetOr("width", Value::Int(4));
  const bool first = call.reader.GetBool("first", false);
  const bool blank = call.reader.GetBool("blank", false);
  call.reader.Finish();
  std::string indent;
  if (width.is_string()) {
    indent = width.text();
  } else if (width.is_int()) {
    call.heap.ChargeBytes(static_cast<size_t>(std::max<int64_t>(width.as_int(), 0)));
    indent.assign(static_cast<size_t>(std::max<int64_t>(width.as_int(), 0)), ' ');
  } else {
    FailRuntime("indent() expects a number or a string as 'width'");
  }
  const std::string_view text = call.Text();
  const auto lines = static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  call.heap.ChargeText(lines * indent.size());
  return call.Result(IndentLines(text, indent, first, blank));
}

Value Replace(FilterCall& call) {
  const std::string old_text = ToString(call.heap, call.reader.Get("old"));
  const std::string new_text = ToString(call.heap, call.reader.Get("new"));
  const Value count = call.reader.GetOr("count", Value::None());
  call.reader.Finish();
  const int64_t limit = count.is_int() ? count.as_int() : -1;
  if (old_text.size() < new_text.size()) {
    call.heap.ChargeText(call.Text().size() / std::max<size_t>(old_text.size(), 1) *
                         new_text.size());
  }
  return call.heap.NewString(ReplaceAll(call.Text(), old_text, new_text, limit));
}

Value Trim(FilterCall& call) {
  const Value characters = call.reader.GetOr("chars", Value::None());
  call.reader.Finish();
  const std::string_view text = call.Text();
  call.heap.ChargeText(text.size());
  return Value::String(characters.is_string()
                           ? StripCharacters(text, characters.text(), Side::kBoth)
                           : StripWhitespace(text, Side::kBoth),
                       call.operand.is_string() && call.operand.is_markup());
}

Value Center(FilterCall& call) {
  const int64_t width = call.reader.GetInt("width", 80);
  call.reader.Finish();
  const std::string_view text = call.Text();
  const int64_t room = width - static_cast<int64_t>(CountCodePoints(text));
  if (room <= 0) {
    return call.Result(std::string(text));
  }
  call.heap.ChargeBytes(static_cast<size_t>(room));
  // Python puts the odd space to the left when the width is odd.
  const int64_t left = room / 2 + (room & width & 1);
  return call.Result(std::string(static_cast<size_t>(left), ' ') + std::string(text) +
                     std::string(static_cast<size_t>(room - left), ' '));
}

Value Format(FilterCall& call) {
  if (!call.arguments.keywords.empty()) {
    FailRuntime("format() with keyword arguments is not supported");
  }
  const Value values = call.heap.NewSequence(Kind::kTuple, call.arguments.positional);
  return call.Result(FormatPercent(call.heap, call.Text(), values));
}

Value ToJsonText(FilterCall& call) {
  JsonStyle style;
  style.ensure_ascii = call.reader.GetBool("ensure_ascii", false);
  const Value indent = call.reader.GetOr("indent", Value::None());
  const Value separators = call.reader.GetOr("separators", Value::None());
  style.sort_keys = call.reader.GetBool("sort_keys", false);
  call.reader.Finish();
  if (indent.is_int()) {
    style.indent = std::max<int64_t>(indent.as_int(), 0);
    call.heap.ChargeBytes(static_cast<size_t>(style.indent));  // bounds it
    style.item_separator = ",";
  } else if (!indent.is_none()) {
    FailRuntime("tojson() expects a number as 'indent'");
  }
  if (separators.is_sequence() && separators.items().size() == 2 &&
      separators.items()[0].is_string() && separators.items()[1].is_string()) {
    style.item_separator = separators.items()[0].text();
    style.key_separator = separators.items()[1].text();
  } else if (!separators.is_none()) {
    FailRuntime("tojson() expects two strings as 'separators'");
  }
  return call.heap.NewString(ToJson(call.heap, call.operand, style));
}

// --- numbers ---

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

Value ToInt(FilterCall& call) {
  const Value otherwise = call.reader.GetOr("default", Value::Int(0));
  const int64_t base = call.reader.GetInt("base", 10);
  call.reader.Finish();
  if (call.operand.is_int()) {
    return Value::Int(call.operand.as_int());
  }
  double number = 0;
  if (call.operand.is_string()) {
    const std::string digits(StripWhitespace(call.operand.text(), Side::kBoth));
    char* end = nullptr;
    errno = 0;
    const int64_t integer = std::strtoll(digits.c_str(), &end, static_cast<int>(base));
    if (base >= 2 && base <= 36 && !digits.empty() && errno == 0 &&
        end == digits.c_str() + digits.size()) {
      return Value::Int(integer);
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
  return std::abs(number) < 9.2e18 ? Value::Int(static_cast<int64_t>(number)) : otherwise;
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
  if (call.operand.is_int() && precision >= 0) {
    return Value::Int(call.operand.as_int());
  }
  if (precision < 0) {
    const double scale = std::pow(10.0, static_cast<double>(-precision));
    const double rounded = std::nearbyint(value / scale) * scale;
    return call.operand.is_int() ? Value::Int(static_cast<int64_t>(rounded))
                                 : Value::Float(rounded);
  }
  char buffer[700];
  std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(precision), value);
  return Value::Float(std::strtod(buffer, nullptr));
}

Value Absolute(FilterCall& call) {
  if (!call.operand.is_number()) {
    FailRuntime(StrCat("bad operand type for abs(): '", TypeName(call.operand), "'"));
  }
  return call.operand.is_int() && call.operand.as_int() >= 0 ? Value::Int(call.operand.as_int())
         : call.operand.is_int() ? Arithmetic(call.heap, "-", Value::Int(0), call.operand)
                                 : Value::Float(std::abs(call.operand.as_double()));
}

Value Default(FilterCall& call) {
  const Value otherwise = call.reader.GetOr("default_value", Value::String(""));
  const bool boolean = call.reader.GetBool("boolean", false);
  call.reader.Finish();
  return call.operand.is_undefined() || (boolean && !IsTrue(call.operand)) ? otherwise
                                                                           : call.operand;
}

struct NamedFilter {
  std::string_view name;
  Value (*apply)(FilterCall&);
};

constexpr NamedFilter kFilters[] = {
    {"abs", Absolute},
    {"attr",
     [](FilterCall& c) { return c.evaluator.GetAttribute(c.operand, c.reader.GetString("name")); }},
    {"batch", Batch},
    {"capitalize", [](FilterCall& c) { return c.Result(Capitalize(c.Text())); }},
    {"center", Center},
    {"count", [](FilterCall& c) { return Value::Int(Length(c.heap, c.operand)); }},
    {"d", Default},
    {"default", Default},
    {"dictsort", DictSort},
    {"e",
     [](FilterCall& c) {
       return c.operand.is_string() && c.operand.is_markup()
                  ? c.operand
                  : c.heap.NewString(EscapeHtml(c.Text()), true);
     }},
    {"escape",
     [](FilterCall& c) {
       return c.operand.is_string() && c.operand.is_markup()
                  ? c.operand
                  : c.heap.NewString(EscapeHtml(c.Text()), true);
     }},
    {"first", First},
    {"float", ToFloat},
    {"forceescape", [](FilterCall& c) { return c.heap.NewString(EscapeHtml(c.Text()), true); }},
    {"format", Format},
    {"indent", Indent},
    {"int", ToInt},
    {"items", Items},
    {"join", Join},
    {"last", Last},
    {"length", [](FilterCall& c) { return Value::Int(Length(c.heap, c.operand)); }},
    {"list", [](FilterCall& c) { return c.heap.NewList(Iterate(c.heap, c.operand)); }},
    {"lower", [](FilterCall& c) { return c.Result(ToLower(c.Text())); }},
    {"map", Map},
    {"max", [](FilterCall& c) { return Extreme(c, true); }},
    {"min", [](FilterCall& c) { return Extreme(c, false); }},
    {"reject", [](FilterCall& c) { return SelectItems(c, false, false); }},
    {"rejectattr", [](FilterCall& c) { return SelectItems(c, true, false); }},
    {"replace", Replace},
    {"reverse", Reverse},
    {"round", Round},
    {"safe", [](FilterCall& c) { return Value::String(c.Text(), true); }},
    {"select", [](FilterCall& c) { return SelectItems(c, false, true); }},
    {"selectattr", [](FilterCall& c) { return SelectItems(c, true, true); }},
    {"sort", Sort},
    {"string",
     [](FilterCall& c) { return c.operand.is_string() ? c.operand : Value::String(c.Text()); }},
    {"sum", Sum},
    {"title", [](FilterCall& c) { return c.Result(TitleWords(c.Text())); }},
    {"tojson", ToJsonText},
    {"trim", Trim},
    {"unique", Unique},
    {"upper", [](FilterCall& c) { return c.Result(ToUpper(c.Text())); }},
};

}  // namespace

Value Evaluator::ApplyFilter(std::string_view name, const Value& operand,
                             const Arguments& arguments) {
  heap_.ChargeSteps(1);
  for (const NamedFilter& filter : kFilters) {
    if (filter.name == name) {
      FilterCall call{*this, heap_, operand, arguments, ArgumentReader(name, arguments)};
      return filter.apply(call);
    }
  }
  Fail(ErrorCode::kUnsupported, "no filter named '", name, "'");
}

}  // namespace dualfp::jinja
