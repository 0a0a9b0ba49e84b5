// The functions that every template has.

#include <cstring>
#include <utility>

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

// joiner(sep): nothing the first time it is called, then the separator.
struct Joiner final : Function {
  explicit Joiner(const Value& between) : separator(between) {}
  Value Call(Evaluator&, const Arguments& arguments) override {
    ArgumentReader("joiner", arguments).Finish();
    return std::exchange(used, true) ? separator : Value::String("");
  }
  Value separator;
  bool used = false;
};

Value MakeJoiner(Evaluator& evaluator, const Arguments& arguments) {
  ArgumentReader reader("joiner", arguments);
  const Value separator = reader.GetOr("sep", Value::String(", "));
  reader.Finish();
  return evaluator.heap().NewFunction(std::make_unique<Joiner>(separator));
}

// cycler(...): an object with next(), reset() and current.
struct CyclerStep final : Function {
  CyclerStep(const Value& object, const std::vector<Value>* all, size_t* at, bool advances)
      : cycler(object), items(all), position(at), is_next(advances) {}
  Value Call(Evaluator& evaluator, const Arguments& arguments) override {
    ArgumentReader(is_next ? "next" : "reset", arguments).Finish();
    const Value current = (*items)[*position];
    *position = is_next ? (*position + 1) % items->size() : 0;
    evaluator.heap().Set(&cycler.dict(), Value::String("current"), (*items)[*position]);
    return is_next ? current : Value::None();
  }
  Value cycler;
  const std::vector<Value>* items;
  size_t* position;
  bool is_next;
};

// What the two methods of a cycler share.
struct CyclerNext final : Function {
  CyclerNext(const Value& object, std::vector<Value> all)
      : items(std::move(all)), step(object, &items, &position, true) {}
  Value Call(Evaluator& evaluator, const Arguments& arguments) override {
    return step.Call(evaluator, arguments);
  }
  std::vector<Value> items;
  size_t position = 0;
  CyclerStep step;
};

Value MakeCycler(Evaluator& evaluator, const Arguments& arguments) {
  Heap& heap = evaluator.heap();
  if (arguments.positional.empty() || !arguments.keywords.empty()) {
    FailRuntime("at least one item has to be provided to cycler()");
  }
  const Value cycler = heap.NewDict({}, Kind::kNamespace);
  auto next = std::make_unique<CyclerNext>(cycler, arguments.positional);
  auto reset = std::make_unique<CyclerStep>(cycler, &next->items, &next->position, false);
  heap.Set(&cycler.dict(), Value::String("current"), arguments.positional[0]);
  heap.Set(&cycler.dict(), Value::String("next"), heap.NewFunction(std::move(next)));
  heap.Set(&cycler.dict(), Value::String("reset"), heap.NewFunction(std::move(reset)));
  return cycler;
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
    {"cycler", MakeCycler},
    {"dict", [](Evaluator& e, const Arguments& a) { return MakeDict(e, a, Kind::kDict); }},
    {"joiner", MakeJoiner},
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
