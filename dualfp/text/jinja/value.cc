#include "dualfp/text/jinja/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <compare>
#include <optional>

#include "dualfp/base/check.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

// How deep values may be nested where they are walked recursively.
constexpr int kMaxDepth = 200;

void CheckDepth(int depth) {
  if (depth > kMaxDepth) {
    FailRuntime(StrCat("values nested more than ", kMaxDepth, " levels deep"));
  }
}

std::partial_ordering CompareNumbers(const Value& a, const Value& b) {
  if (a.is_int() && b.is_int()) {
    return a.as_int() <=> b.as_int();
  }
  if (a.is_integer() && b.is_integer()) {
    return ToBigInt(a).Compare(ToBigInt(b)) <=> 0;
  }
  return a.as_double() <=> b.as_double();
}

bool EqualAt(Heap& heap, const Value& a, const Value& b, int depth);

bool EqualSequences(Heap& heap, const Value& a, const Value& b, int depth) {
  return std::equal(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(),
                    [&](const Value& x, const Value& y) { return EqualAt(heap, x, y, depth + 1); });
}

bool EqualAt(Heap& heap, const Value& a, const Value& b, int depth) {
  heap.ChargeSteps(1);
  CheckDepth(depth);
  if (a.is_number() && b.is_number()) {
    return CompareNumbers(a, b) == std::partial_ordering::equivalent;
  }
  if (a.kind() != b.kind()) {
    return false;
  }
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      heap.ChargeText(std::min(a.text().size(), b.text().size()));
      return a.text() == b.text();
    case Kind::kList:
    case Kind::kTuple:
      return EqualSequences(heap, a, b, depth);
    case Kind::kDict:
      if (a.dict().items.size() != b.dict().items.size()) {
        return false;
      }
      return std::all_of(a.dict().items.begin(), a.dict().items.end(), [&](const auto& item) {
        const Value* other = FindKey(heap, b.dict(), item.first);
        return other != nullptr && EqualAt(heap, item.second, *other, depth + 1);
      });
    case Kind::kNamespace:
      return &a.dict() == &b.dict();
    case Kind::kFunction:
      return &a.function() == &b.function();
    default:
      return &a.sequence() == &b.sequence();
  }
}

bool LessAt(Heap& heap, const Value& a, const Value& b, int depth) {
  heap.ChargeSteps(1);
  CheckDepth(depth);
  if (a.is_number() && b.is_number()) {
    return CompareNumbers(a, b) == std::partial_ordering::less;
  }
  if (a.is_string() && b.is_string()) {
    // The order of UTF-8 bytes is that of code points.
    heap.ChargeText(std::min(a.text().size(), b.text().size()));
    return a.text() < b.text();
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    const size_t common = std::min(a.items().size(), b.items().size());
    for (size_t i = 0; i < common; ++i) {
      if (!EqualAt(heap, a.items()[i], b.items()[i], depth + 1)) {
        return LessAt(heap, a.items()[i], b.items()[i], depth + 1);
      }
    }
    return a.items().size() < b.items().size();
  }
  FailRuntime(
      StrCat("'<' not supported between instances of '", TypeName(a), "' and '", TypeName(b), "'"));
}

}  // namespace

void FailRuntime(const std::string& message) { Fail(ErrorCode::kInvalidArgument, message); }

// Both compare with what is left, because what is asked for may be anything.
void Heap::ChargeSteps(int64_t steps) {
  Check(steps <= limits_.max_steps - steps_, ErrorCode::kResourceExhausted,
        "the template takes more than the allowed ", limits_.max_steps, " steps");
  steps_ += steps;
}

void Heap::ChargeBytes(size_t bytes) {
  Check(bytes <= static_cast<size_t>(limits_.max_bytes - bytes_), ErrorCode::kResourceExhausted,
        "the template needs more than the allowed ", limits_.max_bytes, " bytes");
  bytes_ += static_cast<int64_t>(bytes);
  ChargeText(bytes);
}

Value Heap::NewInt(BigInt value) {
  if (const std::optional<int64_t> small = value.ToInt64()) {
    return Value::Int(*small);
  }
  ChargeBytes(value.BitCount() / 8 + sizeof(BigInt));
  return Value::Big(&big_ints_.emplace_back(std::move(value)));
}

Value Heap::NewString(std::string text, bool is_markup) {
  ChargeBytes(text.size() + sizeof(std::string));
  return Value::String(strings_.emplace_back(std::move(text)), is_markup);
}

Value Heap::NewSequence(Kind kind, std::vector<Value> items) {
  ChargeBytes((items.size() + 1) * sizeof(Value));
  return Value::Of(kind, &sequences_.emplace_back(Sequence{std::move(items)}));
}

Value Heap::NewDict(std::vector<std::pair<Value, Value>> items, Kind kind) {
  ChargeBytes((items.size() + 1) * sizeof(Value) * 2);
  return Value::Of(kind, &dicts_.emplace_back(Dict{std::move(items)}));
}

Value Heap::NewFunction(std::unique_ptr<Function> function) {
  ChargeBytes(sizeof(Value) * 4);
  return Value::Of(functions_.emplace_back(std::move(function)).get());
}

void Heap::Set(Dict* dict, const Value& key, const Value& value) {
  ChargeBytes(2 * sizeof(Value));
  for (auto& [known, old] : dict->items) {
    if (Equal(*this, known, key)) {
      old = value;
      return;
    }
  }
  dict->items.emplace_back(key, value);
}

Value Heap::FromJson(const Json& json) {
  switch (json.type()) {
    case Json::value_t::null:
      return Value::None();
    case Json::value_t::boolean:
      return Value::Bool(json.get<bool>());
    case Json::value_t::number_integer:
      return Value::Int(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      return NewInt(*BigInt::Parse(std::to_string(json.get<uint64_t>()), 10));
    case Json::value_t::number_float:
      return Value::Float(json.get<double>());
    case Json::value_t::string:
      return Value::String(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) {
        items.push_back(FromJson(item));
      }
      return NewList(std::move(items));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> items;
      items.reserve(json.size());
      for (const auto& [key, item] : json.get_ref<const Json::object_t&>()) {
        items.emplace_back(Value::String(key), FromJson(item));
      }
      return NewDict(std::move(items));
    }
    case Json::value_t::binary: {
      const auto& digits = json.get_binary();
      return NewInt(
          *BigInt::Parse({reinterpret_cast<const char*>(digits.data()), digits.size()}, 10));
    }
    default:
      return Value::None();
  }
}

std::string_view TypeName(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
    case Kind::kBigInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kGenerator:
      return "generator";
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kFunction:
      return "function";
  }
  return "object";
}

double Value::as_double() const {
  return kind_ == Kind::kFloat    ? float_
         : kind_ == Kind::kBigInt ? big_->ToDouble()
                                  : static_cast<double>(int_);
}

BigInt ToBigInt(const Value& value) {
  return value.is_int() ? BigInt(value.as_int()) : value.as_big();
}

bool IsTrue(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.as_int() != 0;
    case Kind::kFloat:
      return value.as_double() != 0;
    case Kind::kString:
      return !value.text().empty();
    case Kind::kList:
    case Kind::kTuple:
      return !value.items().empty();
    case Kind::kDict:
      return !value.dict().items.empty();
    default:
      return true;
  }
}

bool Equal(Heap& heap, const Value& a, const Value& b) { return EqualAt(heap, a, b, 0); }
bool Less(Heap& heap, const Value& a, const Value& b) { return LessAt(heap, a, b, 0); }

bool Contains(Heap& heap, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kString:
      if (!item.is_string()) {
        FailRuntime(StrCat("'in <string>' requires string as left operand, not ", TypeName(item)));
      }
      heap.ChargeText(container.text().size());
      return container.text().find(item.text()) != std::string_view::npos;
    case Kind::kDict:
      return FindKey(heap, container.dict(), item) != nullptr;
    default: {
      const std::vector<Value> items = Iterate(heap, container);
      return std::any_of(items.begin(), items.end(),
                         [&](const Value& candidate) { return Equal(heap, candidate, item); });
    }
  }
}

const Value* FindKey(Heap& heap, const Dict& dict, const Value& key) {
  for (const auto& [candidate, value] : dict.items) {
    if (Equal(heap, candidate, key)) {
      return &value;
    }
  }
  return nullptr;
}

const Value* FindKey(const Dict& dict, std::string_view key) {
  for (const auto& [candidate, value] : dict.items) {
    if (candidate.is_string() && candidate.text() == key) {
      return &value;
    }
  }
  return nullptr;
}

std::vector<Value> Iterate(Heap& heap, const Value& value) {
  std::vector<Value> items;
  switch (value.kind()) {
    case Kind::kUndefined:
      break;
    case Kind::kList:
    case Kind::kTuple:
      items = value.items();
      break;
    case Kind::kGenerator:
      items.swap(value.items());
      break;
    case Kind::kDict:
      for (const auto& item : value.dict().items) {
        items.push_back(item.first);
      }
      break;
    case Kind::kString:
      heap.ChargeSteps(static_cast<int64_t>(value.text().size()));
      for (size_t i = 0; i < value.text().size();) {
        const size_t begin = i;
        DecodeUtf8(value.text(), &i);
        items.push_back(Value::String(value.text().substr(begin, i - begin)));
      }
      break;
    default:
      FailRuntime(StrCat("'", TypeName(value), "' object is not iterable"));
  }
  heap.ChargeSteps(static_cast<int64_t>(items.size() / 8));
  return items;
}

int64_t Length(Heap&, const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return static_cast<int64_t>(CountCodePoints(value.text()));
    case Kind::kList:
    case Kind::kTuple:
      return static_cast<int64_t>(value.items().size());
    case Kind::kDict:
      return static_cast<int64_t>(value.dict().items.size());
    default:
      FailRuntime(StrCat("object of type '", TypeName(value), "' has no len()"));
  }
}

}  // namespace dualfp::jinja
