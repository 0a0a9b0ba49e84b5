// The values of the template language: Python's, as far as chat templates need them.
//
// A Value is a small handle. Strings, lists and dicts live in a Heap until the rendering ends, so
// handles are copied freely and cycles (a namespace that contains itself) do no harm. The heap
// counts what it holds and what has been computed; both are limited, so that no template can
// exhaust the machine.

#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/text/jinja/big_int.h"

namespace dualfp::jinja {

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kBigInt,  // an integer that 64 bits do not hold
  kFloat,
  kString,
  kList,
  kTuple,
  kGenerator,  // what filters like map return: can be iterated once, is always true, has no length
  kDict,
  kNamespace,
  kFunction,
};

class Value;
struct Function;

struct Sequence {
  std::vector<Value> items;
  bool is_group = false;  // a pair that groupby made: its attributes are grouper and list
};

// Insertion-ordered. Lookups are linear: dicts in templates are small.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  Function* call = nullptr;  // what calling the object does; null: it cannot be called
};

class Value {
 public:
  Value() = default;  // undefined

  static Value None() { return Value(Kind::kNone); }
  static Value Bool(bool value) {
    Value result(Kind::kBool);
    result.int_ = value ? 1 : 0;
    return result;
  }
  static Value Int(int64_t value) {
    Value result(Kind::kInt);
    result.int_ = value;
    return result;
  }
  // `value` does not fit into 64 bits, and outlives the rendering.
  static Value Big(const BigInt* value) {
    Value result(Kind::kBigInt);
    result.big_ = value;
    return result;
  }
  static Value Float(double value) {
    Value result(Kind::kFloat);
    result.float_ = value;
    return result;
  }
  // The text must outlive the rendering: take it from the heap, the template or the input.
  static Value String(std::string_view text, bool is_markup = false) {
    Value result(Kind::kString);
    result.text_ = text.data();
    result.size_ = text.size();
    result.is_markup_ = is_markup;
    return result;
  }
  // `name` is the variable or attribute that does not exist; `owner` the kind of object without
  // the attribute, "" for a variable.
  static Value Undefined(std::string_view name, std::string_view owner) {
    Value result;
    result.text_ = name.data();
    result.size_ = name.size();
    result.owner_ = owner.data();
    result.owner_size_ = static_cast<uint32_t>(owner.size());
    return result;
  }
  static Value Of(Kind kind, Sequence* sequence) {
    Value result(kind);
    result.sequence_ = sequence;
    return result;
  }
  static Value Of(Kind kind, Dict* dict) {
    Value result(kind);
    result.dict_ = dict;
    return result;
  }
  static Value Of(Function* function) {
    Value result(Kind::kFunction);
    result.function_ = function;
    return result;
  }

  Kind kind() const { return kind_; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_dict() const { return kind_ == Kind::kDict; }
  // As in Python, a bool is an integer.
  bool is_int() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  // An integer of any size; as_int() is for is_int() only.
  bool is_integer() const { return is_int() || kind_ == Kind::kBigInt; }
  bool is_number() const { return is_integer() || kind_ == Kind::kFloat; }
  // A list or a tuple.
  bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }

  int64_t as_int() const { return int_; }
  const BigInt& as_big() const { return *big_; }
  double as_double() const;
  // Also the name of an undefined value.
  std::string_view text() const { return {text_, size_}; }
  std::string_view owner() const { return {owner_, owner_size_}; }
  // Declared safe for HTML: + then escapes the other side, as markupsafe does.
  bool is_markup() const { return is_markup_; }
  Sequence& sequence() const { return *sequence_; }
  std::vector<Value>& items() const { return sequence_->items; }
  Dict& dict() const { return *dict_; }
  Function& function() const { return *function_; }

 private:
  explicit Value(Kind kind) : kind_(kind) {}

  Kind kind_ = Kind::kUndefined;
  bool is_markup_ = false;
  uint32_t owner_size_ = 0;
  union {
    int64_t int_;
    const BigInt* big_;
    double float_;
    const char* text_ = "";
    Sequence* sequence_;
    Dict* dict_;
    Function* function_;
  };
  size_t size_ = 0;
  const char* owner_ = "";
};

class Heap;
class Evaluator;

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string_view, Value>> keywords;
};

// Anything that can be called.
struct Function {
  virtual ~Function() = default;
  virtual Value Call(Evaluator& evaluator, const Arguments& arguments) = 0;
};

class Heap {
 public:
  struct Limits {
    int64_t max_bytes = int64_t{256} << 20;  // of all strings and containers of one rendering
    int64_t max_steps = 20'000'000;          // a step is about 50 nanoseconds of work
  };
  explicit Heap(const Limits& limits) : limits_(limits) {}
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  // Throws kResourceExhausted when the limit is reached.
  void ChargeSteps(int64_t steps);
  // For work on that many bytes of text.
  void ChargeText(size_t bytes) { ChargeSteps(static_cast<int64_t>(bytes / 16)); }

  void ChargeBytes(size_t bytes);

  Value NewInt(BigInt value);
  Value NewString(std::string text, bool is_markup = false);
  Value NewSequence(Kind kind, std::vector<Value> items);
  Value NewList(std::vector<Value> items) { return NewSequence(Kind::kList, std::move(items)); }
  Value NewDict(std::vector<std::pair<Value, Value>> items = {}, Kind kind = Kind::kDict);
  Value NewFunction(std::unique_ptr<Function> function);
  // Grows a dict or namespace; replaces the value of a key that is there.
  void Set(Dict* dict, const Value& key, const Value& value);

  // Strings keep pointing into `json`.
  Value FromJson(const Json& json);

 private:
  Limits limits_;
  int64_t bytes_ = 0;
  int64_t steps_ = 0;
  std::deque<BigInt> big_ints_;
  std::deque<std::string> strings_;
  std::deque<Sequence> sequences_;
  std::deque<Dict> dicts_;
  std::deque<std::unique_ptr<Function>> functions_;
};

// A runtime error of the template: kInvalidArgument; the evaluator adds file and line.
[[noreturn]] void FailRuntime(const std::string& message);

// Python's name of the type: "str", "NoneType", "dict".
std::string_view TypeName(const Value& value);

bool IsTrue(const Value& value);

// Of any value with is_integer().
BigInt ToBigInt(const Value& value);

// Python's ==: numbers by value, containers deeply.
bool Equal(Heap& heap, const Value& a, const Value& b);
// Python's <; throws for values that have no order.
bool Less(Heap& heap, const Value& a, const Value& b);
// Python's `item in container`.
bool Contains(Heap& heap, const Value& container, const Value& item);

// The value of a key; nullptr when it is not there.
const Value* FindKey(Heap& heap, const Dict& dict, const Value& key);
const Value* FindKey(const Dict& dict, std::string_view key);

// The elements of anything that can be iterated over: items, keys, characters. Empties a
// generator. Undefined has none; other values throw.
std::vector<Value> Iterate(Heap& heap, const Value& value);

// Python's str() and repr().
std::string ToString(Heap& heap, const Value& value);
std::string ToRepr(Heap& heap, const Value& value);

// What `|length` gives; throws for values without a length.
int64_t Length(Heap& heap, const Value& value);

struct JsonStyle {
  int64_t indent = -1;  // -1: all on one line
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  std::string indent_text = " ";  // what `indent` counts
};
// Python's json.dumps().
std::string ToJson(Heap& heap, const Value& value, const JsonStyle& style);

// The shortest text that reads back as the number, as Python writes it.
std::string FormatDouble(double value);

}  // namespace dualfp::jinja
