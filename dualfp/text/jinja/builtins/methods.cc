// The methods of strings, lists and dicts that templates may call. Those that change a list or
// dict in place are left out, as in Jinja's immutable sandbox.

#include <algorithm>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/arguments.h"
#include "dualfp/text/jinja/builtins/format.h"
#include "dualfp/text/jinja/evaluator.h"
#include "dualfp/text/jinja/strings.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

struct MethodCall {
  Evaluator& evaluator;
  Heap& heap;
  const Value& self;
  ArgumentReader reader;
  const Arguments& arguments;

  std::string_view Text() const { return self.text(); }
  Value Result(std::string text) const {
    heap.ChargeText(self.text().size());
    return heap.NewString(std::move(text), self.is_markup());
  }
  Value View(std::string_view text) const {
    heap.ChargeText(self.text().size());
    return Value::String(text, self.is_markup());
  }
  Value ListOf(const std::vector<std::string_view>& parts) const {
    heap.ChargeText(self.text().size());
    std::vector<Value> items;
    items.reserve(parts.size());
    for (const std::string_view part : parts) {
      items.push_back(Value::String(part, self.is_markup()));
    }
    return heap.NewList(std::move(items));
  }
};

struct NamedMethod {
  std::string_view name;
  Value (*call)(MethodCall&);
};

Value Strip(MethodCall& call, Side side) {
  const Value characters = call.reader.GetOr("chars", Value::None());
  if (characters.is_none()) {
    return call.View(StripWhitespace(call.Text(), side));
  }
  if (!characters.is_string()) {
    FailRuntime("strip arg must be None or str");
  }
  return call.View(StripCharacters(call.Text(), characters.text(), side));
}

Value SplitText(MethodCall& call, bool from_right) {
  const Value separator = call.reader.GetOr("sep", Value::None());
  const int64_t limit = call.reader.GetInt("maxsplit", -1);
  if (separator.is_none()) {
    return call.ListOf(SplitWhitespace(call.Text(), limit, from_right));
  }
  if (!separator.is_string() || separator.text().empty()) {
    FailRuntime("split() expects a separator that is a string and not empty");
  }
  return call.ListOf(Split(call.Text(), separator.text(), limit, from_right));
}

Value Partition(MethodCall& call, bool from_right) {
  const std::string_view separator = call.reader.GetString("sep");
  if (separator.empty()) {
    FailRuntime("empty separator");
  }
  const std::string_view text = call.Text();
  const size_t at = from_right ? text.rfind(separator) : text.find(separator);
  std::vector<Value> parts;
  if (at == std::string_view::npos) {
    parts = {Value::String(text), Value::String(""), Value::String("")};
    if (from_right) {
      std::swap(parts[0], parts[2]);
    }
  } else {
    parts = {Value::String(text.substr(0, at)), Value::String(separator),
             Value::String(text.substr(at + separator.size()))};
  }
  return call.heap.NewSequence(Kind::kTuple, std::move(parts));
}

// A bound of a search: an integer or None.
int64_t Bound(MethodCall& call, std::string_view name, int64_t otherwise, int64_t length) {
  const Value bound = call.reader.GetOr(name, Value::None());
  if (bound.is_none()) {
    return otherwise;
  }
  if (!bound.is_int()) {
    FailRuntime("slice indices must be integers or None");
  }
  const int64_t index = bound.as_int();
  return index < 0 ? std::max<int64_t>(index + length, 0) : index;
}

// The part of a string that a search with start and end looks through.
struct Window {
  std::string_view text;
  int64_t start = 0;      // in characters
  bool is_valid = false;  // false: nothing can be found, not even the empty string
};

Window ReadWindow(MethodCall& call) {
  const std::string_view text = call.Text();
  call.heap.ChargeText(text.size());
  const auto length = static_cast<int64_t>(CountCodePoints(text));
  Window window;
  window.start = Bound(call, "start", 0, length);
  const int64_t end = std::min(Bound(call, "end", length, length), length);
  window.is_valid = window.start <= end;
  if (window.is_valid) {
    const size_t begin = CodePointOffset(text, static_cast<size_t>(window.start));
    window.text = text.substr(
        begin, CodePointOffset(text.substr(begin), static_cast<size_t>(end - window.start)));
  }
  return window;
}

// startswith and endswith: one string, or a tuple of them.
Value HasAffix(MethodCall& call, bool at_start) {
  const Value affix = call.reader.Get("affix");
  const Window window = ReadWindow(call);
  const auto matches = [&](const Value& candidate) {
    if (!candidate.is_string()) {
      FailRuntime(StrCat(at_start ? "startswith" : "endswith",
                         " first arg must be str or a tuple of str, not ", TypeName(candidate)));
    }
    return window.is_valid && (at_start ? window.text.starts_with(candidate.text())
                                        : window.text.ends_with(candidate.text()));
  };
  if (affix.kind() == Kind::kTuple) {
    return Value::Bool(std::any_of(affix.items().begin(), affix.items().end(), matches));
  }
  return Value::Bool(matches(affix));
}

int64_t FindIn(MethodCall& call, bool from_right) {
  const std::string_view wanted = call.reader.GetString("sub");
  const Window window = ReadWindow(call);
  const size_t at = from_right ? window.text.rfind(wanted) : window.text.find(wanted);
  return !window.is_valid || at == std::string_view::npos
             ? -1
             : window.start + static_cast<int64_t>(CountCodePoints(window.text.substr(0, at)));
}

Value Index(MethodCall& call, bool from_right) {
  const int64_t at = FindIn(call, from_right);
  if (at < 0) {
    FailRuntime("substring not found");
  }
  return Value::Int(at);
}

Value CountText(MethodCall& call) {
  const std::string_view wanted = call.reader.GetString("sub");
  const Window window = ReadWindow(call);
  if (!window.is_valid) {
    return Value::Int(0);
  }
  if (wanted.empty()) {
    return Value::Int(static_cast<int64_t>(CountCodePoints(window.text)) + 1);
  }
  return Value::Int(static_cast<int64_t>(Split(window.text, wanted, -1, false).size()) - 1);
}

Value ReplaceText(MethodCall& call) {
  const std::string_view old_text = call.reader.GetString("old");
  const std::string_view new_text = call.reader.GetString("new");
  const int64_t count = call.reader.GetInt("count", -1);
  if (old_text.size() < new_text.size()) {
    call.heap.ChargeText(call.Text().size() / std::max<size_t>(old_text.size(), 1) *
                         new_text.size());
  }
  return call.Result(ReplaceAll(call.Text(), old_text, new_text, count));
}

Value JoinItems(MethodCall& call) {
  std::string text;
  bool first = true;
  for (const Value& item : Iterate(call.heap, call.reader.Get("iterable"))) {
    if (!item.is_string()) {
      FailRuntime(StrCat("sequence item: expected str instance, ", TypeName(item), " found"));
    }
    if (!first) {
      text += call.Text();
    }
    first = false;
    text += item.text();
    call.heap.ChargeText(call.Text().size() + item.text().size());
  }
  return call.heap.NewString(std::move(text), call.self.is_markup());
}

Value Format(MethodCall& call) {
  return call.Result(FormatBraces(call.evaluator, call.Text(), call.arguments));
}

Value FormatMap(MethodCall& call) {
  const Value mapping = call.reader.Get("mapping");
  if (!mapping.is_dict()) {
    FailRuntime("format_map() expects a mapping");
  }
  Arguments fields;
  for (const auto& [key, value] : mapping.dict().items) {
    if (key.is_string()) {
      fields.keywords.emplace_back(key.text(), value);
    }
  }
  return call.Result(FormatBraces(call.evaluator, call.Text(), fields));
}

Value ExpandTabs(MethodCall& call) {
  const int64_t size = call.reader.GetInt("tabsize", 8);
  std::string out;
  int64_t column = 0;
  for (const char c : call.Text()) {
    if (c == '\t') {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      call.heap.ChargeBytes(static_cast<size_t>(spaces));
      out.append(static_cast<size_t>(spaces), ' ');
      column += spaces;
    } else {
      out += c;
      column = c == '\n' || c == '\r' ? 0 : column + (IsUtf8Continuation(c) ? 0 : 1);
    }
  }
  return call.Result(std::move(out));
}

Value Pad(MethodCall& call, bool left, bool right, char fill) {
  const int64_t width = call.reader.GetInt("width");
  const std::string_view filler = call.reader.GetString("fillchar", std::string_view(&fill, 1));
  const std::string_view text = call.Text();
  const int64_t room = width - static_cast<int64_t>(CountCodePoints(text));
  if (room <= 0 || CountCodePoints(filler) != 1) {
    return call.View(text);
  }
  call.heap.ChargeBytes(static_cast<size_t>(room) * filler.size());
  const int64_t before = left && right ? room / 2 + (room & width & 1) : left ? room : 0;
  std::string out;
  for (int64_t i = 0; i < before; ++i) {
    out += filler;
  }
  out += text;
  for (int64_t i = before; i < room; ++i) {
    out += filler;
  }
  return call.Result(std::move(out));
}

Value ZeroFill(MethodCall& call) {
  const int64_t width = call.reader.GetInt("width");
  const std::string_view text = call.Text();
  const int64_t room = width - static_cast<int64_t>(CountCodePoints(text));
  if (room <= 0) {
    return call.View(text);
  }
  call.heap.ChargeBytes(static_cast<size_t>(room));
  const size_t sign = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
  return call.Result(std::string(text.substr(0, sign)) +
                     std::string(static_cast<size_t>(room), '0') + std::string(text.substr(sign)));
}

Value RemoveAffix(MethodCall& call, bool at_start) {
  const std::string_view affix = call.reader.GetString("affix");
  std::string_view text = call.Text();
  if (at_start && text.starts_with(affix)) {
    text.remove_prefix(affix.size());
  } else if (!at_start && text.ends_with(affix)) {
    text.remove_suffix(affix.size());
  }
  return call.View(text);
}

Value Whether(MethodCall& call, bool (*holds)(char32_t)) {
  call.heap.ChargeText(call.Text().size());
  return Value::Bool(AllOf(call.Text(), holds));
}

constexpr NamedMethod kStringMethods[] = {
    {"capitalize", [](MethodCall& c) { return c.Result(Capitalize(c.Text())); }},
    {"center", [](MethodCall& c) { return Pad(c, true, true, ' '); }},
    {"count", CountText},
    {"endswith", [](MethodCall& c) { return HasAffix(c, false); }},
    {"expandtabs", ExpandTabs},
    {"find", [](MethodCall& c) { return Value::Int(FindIn(c, false)); }},
    {"format", Format},
    {"format_map", FormatMap},
    {"index", [](MethodCall& c) { return Index(c, false); }},
    {"isalnum",
     [](MethodCall& c) {
       return Whether(c, [](char32_t x) { return IsLetter(x) || IsNumeric(x); });
     }},
    {"isalpha", [](MethodCall& c) { return Whether(c, IsLetter); }},
    {"isascii", [](MethodCall& c) { return Value::Bool(IsAscii(c.Text())); }},
    {"isdecimal", [](MethodCall& c) { return Whether(c, IsDecimalDigit); }},
    {"isdigit", [](MethodCall& c) { return Whether(c, IsDecimalDigit); }},
    {"islower",
     [](MethodCall& c) {
       return Value::Bool(AnyOf(c.Text(), IsLower) && !AnyOf(c.Text(), IsUpper));
     }},
    {"isnumeric", [](MethodCall& c) { return Whether(c, IsNumeric); }},
    {"isprintable",
     [](MethodCall& c) { return Value::Bool(c.Text().empty() || AllOf(c.Text(), IsPrintable)); }},
    {"isspace", [](MethodCall& c) { return Whether(c, IsPythonWhitespace); }},
    {"istitle",
     [](MethodCall& c) {
       return Value::Bool(AnyOf(c.Text(), IsUpper) && c.Text() == TitleCase(c.Text()));
     }},
    {"isupper",
     [](MethodCall& c) {
       return Value::Bool(AnyOf(c.Text(), IsUpper) && !AnyOf(c.Text(), IsLower));
     }},
    {"join", JoinItems},
    {"ljust", [](MethodCall& c) { return Pad(c, false, true, ' '); }},
    {"lower", [](MethodCall& c) { return c.Result(ToLower(c.Text())); }},
    {"lstrip", [](MethodCall& c) { return Strip(c, Side::kLeft); }},
    {"partition", [](MethodCall& c) { return Partition(c, false); }},
    {"removeprefix", [](MethodCall& c) { return RemoveAffix(c, true); }},
    {"removesuffix", [](MethodCall& c) { return RemoveAffix(c, false); }},
    {"replace", ReplaceText},
    {"rfind", [](MethodCall& c) { return Value::Int(FindIn(c, true)); }},
    {"rindex", [](MethodCall& c) { return Index(c, true); }},
    {"rjust", [](MethodCall& c) { return Pad(c, true, false, ' '); }},
    {"rpartition", [](MethodCall& c) { return Partition(c, true); }},
    {"rsplit", [](MethodCall& c) { return SplitText(c, true); }},
    {"rstrip", [](MethodCall& c) { return Strip(c, Side::kRight); }},
    {"split", [](MethodCall& c) { return SplitText(c, false); }},
    {"splitlines",
     [](MethodCall& c) {
       return c.ListOf(SplitLines(c.Text(), c.reader.GetBool("keepends", false)));
     }},
    {"startswith", [](MethodCall& c) { return HasAffix(c, true); }},
    {"strip", [](MethodCall& c) { return Strip(c, Side::kBoth); }},
    {"swapcase", [](MethodCall& c) { return c.Result(SwapCase(c.Text())); }},
    {"title", [](MethodCall& c) { return c.Result(TitleCase(c.Text())); }},
    {"upper", [](MethodCall& c) { return c.Result(ToUpper(c.Text())); }},
    {"zfill", ZeroFill},
};

constexpr NamedMethod kSequenceMethods[] = {
    {"copy", [](MethodCall& c) { return c.heap.NewSequence(c.self.kind(), c.self.items()); }},
    {"count",
     [](MethodCall& c) {
       const Value wanted = c.reader.Get("value");
       int64_t count = 0;
       for (const Value& item : c.self.items()) {
         count += Equal(c.heap, item, wanted) ? 1 : 0;
       }
       return Value::Int(count);
     }},
    {"index",
     [](MethodCall& c) {
       const Value wanted = c.reader.Get("value");
       const auto length = static_cast<int64_t>(c.self.items().size());
       const int64_t start = Bound(c, "start", 0, length);
       const int64_t stop = std::min(Bound(c, "stop", length, length), length);
       for (auto i = static_cast<size_t>(start); i < static_cast<size_t>(stop); ++i) {
         if (Equal(c.heap, c.self.items()[i], wanted)) {
           return Value::Int(static_cast<int64_t>(i));
         }
       }
       FailRuntime("the value is not in the list");
     }},
};

constexpr NamedMethod kDictMethods[] = {
    {"copy", [](MethodCall& c) { return c.heap.NewDict(c.self.dict().items); }},
    {"get",
     [](MethodCall& c) {
       const Value* value = FindKey(c.heap, c.self.dict(), c.reader.Get("key"));
       return value != nullptr ? *value : c.reader.GetOr("default", Value::None());
     }},
    {"items",
     [](MethodCall& c) {
       std::vector<Value> items;
       for (const auto& [key, value] : c.self.dict().items) {
         items.push_back(c.heap.NewSequence(Kind::kTuple, {key, value}));
       }
       return c.heap.NewList(std::move(items));
     }},
    {"keys", [](MethodCall& c) { return c.heap.NewList(Iterate(c.heap, c.self)); }},
    {"values",
     [](MethodCall& c) {
       std::vector<Value> values;
       for (const auto& item : c.self.dict().items) {
         values.push_back(item.second);
       }
       return c.heap.NewList(std::move(values));
     }},
};

// Methods that a sandboxed template may not call.
constexpr std::string_view kMutators[] = {"append",  "clear",  "extend",     "insert", "pop",
                                          "popitem", "remove", "setdefault", "sort",   "update"};

struct BoundMethod final : Function {
  BoundMethod(const Value& object, const NamedMethod* bound) : self(object), method(bound) {}

  Value Call(Evaluator& evaluator, const Arguments& arguments) override {
    MethodCall call{evaluator, evaluator.heap(), self, ArgumentReader(method->name, arguments),
                    arguments};
    const Value result = method->call(call);
    if (method->name != "format" && method->name != "get") {
      call.reader.Finish();
    }
    return result;
  }

  Value self;
  const NamedMethod* method;
};

struct RefusedMethod final : Function {
  explicit RefusedMethod(std::string_view method) : name(method) {}
  Value Call(Evaluator&, const Arguments&) override {
    FailRuntime(StrCat("templates may not call ", name, "(), which changes its object"));
  }
  std::string_view name;
};

template <size_t kCount>
const NamedMethod* Lookup(const NamedMethod (&methods)[kCount], std::string_view name) {
  for (const NamedMethod& method : methods) {
    if (method.name == name) {
      return &method;
    }
  }
  return nullptr;
}

}  // namespace

Value FindMethod(Heap& heap, const Value& object, std::string_view name) {
  const NamedMethod* method = object.is_string()     ? Lookup(kStringMethods, name)
                              : object.is_sequence() ? Lookup(kSequenceMethods, name)
                              : object.is_dict()     ? Lookup(kDictMethods, name)
                                                     : nullptr;
  if (method != nullptr) {
    return heap.NewFunction(std::make_unique<BoundMethod>(object, method));
  }
  if (object.kind() == Kind::kList || object.is_dict()) {
    for (const std::string_view mutator : kMutators) {
      const bool is_of_list =
          mutator != "popitem" && mutator != "setdefault" && mutator != "update";
      const bool is_of_dict = mutator == "clear" || mutator == "pop" || !is_of_list;
      if (mutator == name && (object.is_dict() ? is_of_dict : is_of_list)) {
        return heap.NewFunction(std::make_unique<RefusedMethod>(mutator));
      }
    }
  }
  return Value();
}

}  // namespace dualfp::jinja
