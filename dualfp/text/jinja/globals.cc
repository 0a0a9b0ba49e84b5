// The functions that every template has.

#include <cstring>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/arguments.h"
#include "dualfp/text/jinja/evaluator.h"

namespace dualfp::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // Jinja's sandbox has the same limit

struct Global {
  std::string_view name;
  Value (*call)(Evaluator&, const Arguments&);
};

Value Range(Evaluator& evaluator, const Arguments& arguments) {
  ArgumentReader reader("range", arguments);
  int64_t start = 0;
  int64_t stop = reader.GetInt("stop");
  int64_t step = 1;
  if (arguments.positional.size() > 1) {
    start = stop;
    stop = reader.GetInt("stop");
    step = reader.GetInt("step", 1);
  }
  reader.Finish();
  if (step == 0) {
    FailRuntime("range() arg 3 must not be zero");
  }
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) >= kMaxRange) {
      FailRuntime(StrCat("range() of more than ", kMaxRange, " items"));
    }
    items.push_back(Value::Int(i));
    if (__builtin_add_overflow(i, step, &i)) {
      break;
    }
  }
  return evaluator.heap().NewList(std::move(items));
}

// dict(...) and namespace(...): pairs or a mapping, then keywords.
Value MakeDict(Evaluator& evaluator, const Arguments& arguments, Kind kind) {
  Heap& heap = evaluator.heap();
  const Value result = heap.NewDict({}, kind);
  if (arguments.positional.size() > 1) {
    FailRuntime("dict expected at most 1 argument");
  }
  for (const Value& source : arguments.positional) {
    if (source.is_dict()) {
      for (const auto& [key, value] : source.dict().items) {
        heap.Set(&result.dict(), key, value);
      }
      continue;
    }
    for (const Value& pair : Iterate(heap, source)) {
      const std::vector<Value> parts = Iterate(heap, pair);
      if (parts.size() != 2) {
        FailRuntime("dict update sequence element must have length 2");
      }
      heap.Set(&result.dict(), parts[0], parts[1]);
    }
  }
  for (const auto& [name, value] : arguments.keywords) {
    if (kind == Kind::kNamespace && name.starts_with('_')) {
      FailRuntime(StrCat("cannot store the attribute '", name, "' on a namespace"));
    }
    heap.Set(&result.dict(), Value::String(name), value);
  }
  return result;
}

Value RaiseException(Evaluator& evaluator, const Arguments& arguments) {
  ArgumentReader reader("raise_exception", arguments);
  FailRuntime(ToString(evaluator.heap(), reader.Get("message")));
}

Value StrftimeNow(Evaluator& evaluator, const Arguments& arguments) {
  ArgumentReader reader("strftime_now", arguments);
  const std::string format(reader.GetString("format"));
  reader.Finish();
  if (format.size() > 1000 || format.find('\0') != std::string::npos) {
    FailRuntime("strftime_now() expects a short format");
  }
  const std::time_t now = evaluator.now();
  std::tm local{};
  localtime_r(&now, &local);
  // A space in front tells an empty result from one that did not fit.
  char buffer[16384];
  const size_t size = std::strftime(buffer, sizeof(buffer), StrCat(" ", format).c_str(), &local);
  if (size == 0) {
    FailRuntime("strftime_now(): the result is too long");
  }
  return evaluator.heap().NewString(std::string(buffer + 1, size - 1));
}

constexpr Global kGlobals[] = {
    {"dict", [](Evaluator& e, const Arguments& a) { return MakeDict(e, a, Kind::kDict); }},
    {"namespace",
     [](Evaluator& e, const Arguments& a) { return MakeDict(e, a, Kind::kNamespace); }},
    {"raise_exception", RaiseException},
    {"range", Range},
    {"strftime_now", StrftimeNow},
};

struct GlobalFunction final : Function {
  explicit GlobalFunction(const Global* which) : global(which) {}
  Value Call(Evaluator& evaluator, const Arguments& arguments) override {
    return global->call(evaluator, arguments);
  }
  const Global* global;
};

}  // namespace

Value FindGlobal(Heap& heap, std::string_view name) {
  for (const Global& global : kGlobals) {
    if (global.name == name) {
      return heap.NewFunction(std::make_unique<GlobalFunction>(&global));
    }
  }
  return Value();
}

}  // namespace dualfp::jinja
