// The filters of the template language, as in jinja2/filters.py; tojson as transformers has it.
// Those on sequences are in sequence_filters.cc.

#include <algorithm>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/builtins/filters_internal.h"
#include "dualfp/text/jinja/builtins/format.h"
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
  if (call.arguments.keywords.empty()) {
    const Value values = call.heap.NewSequence(Kind::kTuple, call.arguments.positional);
    return call.Result(FormatPercent(call.heap, call.Text(), values));
  }
  if (!call.arguments.positional.empty()) {
    FailRuntime("can't handle positional and keyword arguments at the same time");
  }
  const Value values = call.heap.NewDict();
  for (const auto& [name, value] : call.arguments.keywords) {
    call.heap.Set(&values.dict(), Value::String(name), value);
  }
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
  } else if (indent.is_string()) {
    style.indent = 1;
    style.indent_text = indent.text();
    style.item_separator = ",";
  } else if (!indent.is_none()) {
    FailRuntime("tojson() expects a number or a string as 'indent'");
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
     [](FilterCall& c) {
       // Unlike the dot, it does not see the members of a dict.
       const std::string_view name = c.reader.GetString("name");
       return c.operand.is_dict() && FindMethod(c.heap, c.operand, name).is_undefined()
                  ? Value::Undefined(name, TypeName(c.operand))
                  : c.evaluator.GetAttribute(c.operand, name);
     }},
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
    {"filesizeformat", FileSize},
    {"first", First},
    {"float", ToFloat},
    {"forceescape", [](FilterCall& c) { return c.heap.NewString(EscapeHtml(c.Text()), true); }},
    {"format", Format},
    {"groupby", GroupBy},
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
    {"pprint", PrettyPrint},
    {"random", Random},
    {"reject", [](FilterCall& c) { return SelectItems(c, false, false); }},
    {"rejectattr", [](FilterCall& c) { return SelectItems(c, true, false); }},
    {"replace", Replace},
    {"reverse", Reverse},
    {"round", Round},
    {"safe", [](FilterCall& c) { return Value::String(c.Text(), true); }},
    {"select", [](FilterCall& c) { return SelectItems(c, false, true); }},
    {"selectattr", [](FilterCall& c) { return SelectItems(c, true, true); }},
    {"slice", Slices},
    {"sort", Sort},
    {"string",
     [](FilterCall& c) { return c.operand.is_string() ? c.operand : Value::String(c.Text()); }},
    {"striptags", StripTags},
    {"sum", Sum},
    {"title", [](FilterCall& c) { return c.Result(TitleWords(c.Text())); }},
    {"tojson", ToJsonText},
    {"trim", Trim},
    {"truncate", Truncate},
    {"unique", Unique},
    {"upper", [](FilterCall& c) { return c.Result(ToUpper(c.Text())); }},
    {"urlencode", UrlEncode},
    {"wordcount", WordCount},
    {"wordwrap", WordWrap},
    {"xmlattr", XmlAttributes},
};

}  // namespace

bool IsFilterName(std::string_view name) {
  return std::any_of(std::begin(kFilters), std::end(kFilters),
                     [&](const NamedFilter& filter) { return filter.name == name; });
}

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
