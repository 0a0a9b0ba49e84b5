// The filters of the template language, as in jinja2/filters.py; tojson as transformers has it.

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/arguments.h"
#include "dualfp/text/jinja/evaluator.h"
#include "dualfp/text/jinja/strings.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

struct FilterCall {
  Evaluator& evaluator;
  Heap& heap;
  const Value& operand;
  const Arguments& arguments;
  ArgumentReader reader;

  // The operand as text; its markup flag goes on to the result where Python's does.
  std::string_view Text() const {
    return operand.is_string() ? operand.text() : heap.NewString(ToString(heap, operand)).text();
  }
  Value Result(std::string text) const {
    heap.ChargeText(Text().size());
    return heap.NewString(std::move(text), operand.is_string() && operand.is_markup());
  }
};

// Follows "a.b.0": names and indices.
Value FollowPath(Evaluator& evaluator, Value value, const Value& path, const Value* otherwise) {
  if (path.is_none()) {
    return value;
  }
  if (!path.is_string()) {
    value = evaluator.GetItem(value, path);
    return value.is_undefined() && otherwise != nullptr ? *otherwise : value;
  }
  for (const std::string_view part : Split(path.text(), ".", -1, false)) {
    const bool is_index =
        !part.empty() && part.size() < 10 &&
        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    value = evaluator.GetItem(value, is_index ? Value::Int(std::stoll(std::string(part)))
                                              : Value::String(part));
    if (value.is_undefined() && otherwise != nullptr) {
      value = *otherwise;
    }
  }
  return value;
}

Value IgnoreCase(Heap& heap, const Value& value) {
  return value.is_string() ? heap.NewString(ToLower(value.text())) : value;
}

// --- choosing and ordering ---

// Calls visit(item, chosen) for select, reject, selectattr and rejectattr.
Value SelectItems(FilterCall& call, bool by_attribute, bool keep) {
  const std::vector<Value>& given = call.arguments.positional;
  size_t next = 0;
  Value path = Value::None();
  if (by_attribute) {
    if (given.empty()) {
      FailRuntime("Missing parameter for attribute name");
    }
    path = given[next++];
  }
  const Value* test = next < given.size() ? &given[next++] : nullptr;
  if (test != nullptr && !test->is_string()) {
    FailRuntime("expected the name of a test");
  }
  Arguments rest;
  rest.positional.assign(given.begin() + static_cast<std::ptrdiff_t>(next), given.end());
  rest.keywords = call.arguments.keywords;
  std::vector<Value> kept;
  for (const Value& item : Iterate(call.heap, call.operand)) {
    const Value value = FollowPath(call.evaluator, item, path, nullptr);
    const bool holds = test != nullptr ? call.evaluator.ApplyTest(test->text(), value, rest)
                                       : IsTrue(value);
    if (holds == keep) {
      kept.push_back(item);
    }
  }
  return call.heap.NewSequence(Kind::kGenerator, std::move(kept));
}

Value Map(FilterCall& call) {
  std::vector<Value> results;
  const Arguments& arguments = call.arguments;
  if (arguments.positional.empty()) {
    const Value path = call.reader.Get("attribute");
    const Value* otherwise = call.reader.Find("default");
    call.reader.Finish();
    for (const Value& item : Iterate(call.heap, call.operand)) {
      results.push_back(FollowPath(call.evaluator, item, path, otherwise));
    }
  } else {
    const Value& name = arguments.positional[0];
    if (!name.is_string()) {
      FailRuntime("map() expects the name of a filter");
    }
    Arguments rest;
    rest.positional.assign(arguments.positional.begin() + 1, arguments.positional.end());
    rest.keywords = arguments.keywords;
    for (const Value& item : Iterate(call.heap, call.operand)) {
      results.push_back(call.evaluator.ApplyFilter(name.text(), item, rest));
    }
  }
  return call.heap.NewSequence(Kind::kGenerator, std::move(results));
}

// Sorts `items` by the keys, stably; reversed order keeps equal items in place, like Python.
std::vector<Value> SortBy(Heap& heap, const std::vector<Value>& items,
                          const std::vector<Value>& keys, bool reverse) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) {
    order[i] = i;
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return reverse ? Less(heap, keys[b], keys[a]) : Less(heap, keys[a], keys[b]);
  });
  std::vector<Value> sorted;
  for (const size_t i : order) {
    sorted.push_back(items[i]);
  }
  return sorted;
}

Value Sort(FilterCall& call) {
  const bool reverse = call.reader.GetBool("reverse", false);
  const bool case_sensitive = call.reader.GetBool("case_sensitive", false);
  const Value attribute = call.reader.GetOr("attribute", Value::None());
  call.reader.Finish();
  const std::vector<Value> items = Iterate(call.heap, call.operand);
  std::vector<Value> paths = {attribute};
  if (attribute.is_string()) {
    paths.clear();
    for (const std::string_view part : Split(attribute.text(), ",", -1, false)) {
      paths.push_back(Value::String(part));
    }
  }
  std::vector<Value> keys;
  for (const Value& item : items) {
    std::vector<Value> key;
    for (const Value& path : paths) {
      const Value value = FollowPath(call.evaluator, item, path, nullptr);
      key.push_back(case_sensitive ? value : IgnoreCase(call.heap, value));
    }
    keys.push_back(call.heap.NewSequence(Kind::kList, std::move(key)));
  }
  return call.heap.NewList(SortBy(call.heap, items, keys, reverse));
}

Value DictSort(FilterCall& call) {
  const bool case_sensitive = call.reader.GetBool("case_sensitive", false);
  const std::string_view by = call.reader.GetString("by", "key");
  const bool reverse = call.reader.GetBool("reverse", false);
  call.reader.Finish();
  if (!call.operand.is_dict() || (by != "key" && by != "value")) {
    FailRuntime("dictsort() expects a dict, and 'key' or 'value' to sort by");
  }
  std::vector<Value> items;
  std::vector<Value> keys;
  for (const auto& [key, value] : call.operand.dict().items) {
    items.push_back(call.heap.NewSequence(Kind::kTuple, {key, value}));
    const Value& sort_key = by == "key" ? key : value;
    keys.push_back(case_sensitive ? sort_key : IgnoreCase(call.heap, sort_key));
  }
  return call.heap.NewList(SortBy(call.heap, items, keys, reverse));
}

Value Extreme(FilterCall& call, bool largest) {
  const bool case_sensitive = call.reader.GetBool("case_sensitive", false);
  const Value attribute = call.reader.GetOr("attribute", Value::None());
  call.reader.Finish();
  Value best = Value::Undefined("No aggregated item, sequence was empty.", "");
  Value best_key;
  bool first = true;
  for (const Value& item : Iterate(call.heap, call.operand)) {
    Value key = FollowPath(call.evaluator, item, attribute, nullptr);
    key = case_sensitive ? key : IgnoreCase(call.heap, key);
    if (first || (largest ? Less(call.heap, best_key, key) : Less(call.heap, key, best_key))) {
      best = item;
      best_key = key;
    }
    first = false;
  }
  return best;
}

Value Unique(FilterCall& call) {
  const bool case_sensitive = call.reader.GetBool("case_sensitive", false);
  const Value attribute = call.reader.GetOr("attribute", Value::None());
  call.reader.Finish();
  std::vector<Value> unique;
  std::vector<Value> keys;
  for (const Value& item : Iterate(call.heap, call.operand)) {
    Value key = FollowPath(call.evaluator, item, attribute, nullptr);
    key = case_sensitive ? key : IgnoreCase(call.heap, key);
    if (std::none_of(keys.begin(), keys.end(),
                     [&](const Value& known) { return Equal(call.heap, known, key); })) {
      keys.push_back(key);
      unique.push_back(item);
    }
  }
  return call.heap.NewSequence(Kind::kGenerator, std::move(unique));
}

Value Reverse(FilterCall& call) {
  std::vector<Value> items = Iterate(call.heap, call.operand);
  std::reverse(items.begin(), items.end());
  if (!call.operand.is_string()) {
    return call.heap.NewSequence(Kind::kGenerator, std::move(items));
  }
  std::string text;
  for (const Value& character : items) {
    text += character.text();
  }
  return call.Result(std::move(text));
}

Value Batch(FilterCall& call) {
  const int64_t count = call.reader.GetInt("linecount");
  const Value fill = call.reader.GetOr("fill_with", Value::None());
  call.reader.Finish();
  if (count < 1) {
    FailRuntime("batch() expects a positive count");
  }
  std::vector<Value> batches;
  std::vector<Value> batch;
  for (const Value& item : Iterate(call.heap, call.operand)) {
    if (static_cast<int64_t>(batch.size()) == count) {
      batches.push_back(call.heap.NewList(std::move(batch)));
      batch.clear();
    }
    batch.push_back(item);
  }
  if (!batch.empty()) {
    while (!fill.is_none() && static_cast<int64_t>(batch.size()) < count) {
      call.heap.ChargeBytes(sizeof(Value));
      batch.push_back(fill);
    }
    batches.push_back(call.heap.NewList(std::move(batch)));
  }
  return call.heap.NewSequence(Kind::kGenerator, std::move(batches));
}

Value First(FilterCall& call) {
  if (call.operand.kind() == Kind::kGenerator && !call.operand.items().empty()) {
    const Value first = call.operand.items().front();
    call.operand.items().erase(call.operand.items().begin());
    return first;
  }
  const std::vector<Value> items = Iterate(call.heap, call.operand);
  return items.empty() ? Value::Undefined("No first item, sequence was empty.", "")
                       : items.front();
}

Value Last(FilterCall& call) {
  if (call.operand.kind() == Kind::kGenerator) {
    FailRuntime("'generator' object is not reversible");
  }
  const std::vector<Value> items = Iterate(call.heap, call.operand);
  return items.empty() ? Value::Undefined("No last item, sequence was empty.", "") : items.back();
}

Value Items(FilterCall& call) {
  std::vector<Value> items;
  if (!call.operand.is_undefined()) {
    if (!call.operand.is_dict()) {
      FailRuntime("Can only get item pairs from a mapping.");
    }
    for (const auto& [key, value] : call.operand.dict().items) {
      items.push_back(call.heap.NewSequence(Kind::kTuple, {key, value}));
    }
  }
  return call.heap.NewSequence(Kind::kGenerator, std::move(items));
}

Value Sum(FilterCall& call) {
  const Value attribute = call.reader.GetOr("attribute", Value::None());
  Value sum = call.reader.GetOr("start", Value::Int(0));
  call.reader.Finish();
  for (const Value& item : Iterate(call.heap, call.operand)) {
    sum = Add(call.heap, sum, FollowPath(call.evaluator, item, attribute, nullptr));
  }
  return sum;
}

// --- text ---

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
  return call.operand.is_string() && ParseFloat(call.operand.text(), &number)
             ? Value::Float(number)
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
  return call.operand.is_int() && call.operand.as_int() >= 0
             ? Value::Int(call.operand.as_int())
         : call.operand.is_int()
             ? Arithmetic(call.heap, "-", Value::Int(0), call.operand)
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
    {"attr", [](FilterCall& c) {
       return c.evaluator.GetAttribute(c.operand, c.reader.GetString("name"));
     }},
    {"batch", Batch},
    {"capitalize", [](FilterCall& c) { return c.Result(Capitalize(c.Text())); }},
    {"center", Center},
    {"count", [](FilterCall& c) { return Value::Int(Length(c.heap, c.operand)); }},
    {"d", Default},
    {"default", Default},
    {"dictsort", DictSort},
    {"e", [](FilterCall& c) {
       return c.operand.is_string() && c.operand.is_markup()
                  ? c.operand
                  : c.heap.NewString(EscapeHtml(c.Text()), true);
     }},
    {"escape", [](FilterCall& c) {
       return c.operand.is_string() && c.operand.is_markup()
                  ? c.operand
                  : c.heap.NewString(EscapeHtml(c.Text()), true);
     }},
    {"first", First},
    {"float", ToFloat},
    {"forceescape",
     [](FilterCall& c) { return c.heap.NewString(EscapeHtml(c.Text()), true); }},
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
    {"string", [](FilterCall& c) {
       return c.operand.is_string() ? c.operand : Value::String(c.Text());
     }},
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
