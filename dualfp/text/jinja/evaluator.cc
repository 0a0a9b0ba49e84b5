#include "dualfp/text/jinja/evaluator.h"

#include <algorithm>
#include <array>
#include <optional>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/arguments.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

// Statements, expressions and macro calls inside each other: a few hundred bytes of stack each.
constexpr int kMaxDepth = 1000;

// loop.cycle('odd', 'even')
struct Cycle final : Function {
  Value Call(Evaluator&, const Arguments& arguments) override {
    if (arguments.positional.empty()) {
      FailRuntime("no items for cycling given");
    }
    return arguments.positional[index % arguments.positional.size()];
  }
  size_t index = 0;
};

// loop.changed(value): whether it differs from the last time.
struct Changed final : Function {
  Value Call(Evaluator& evaluator, const Arguments& arguments) override {
    const Value now = evaluator.heap().NewSequence(Kind::kTuple, arguments.positional);
    const bool changed = last.is_undefined() || !Equal(evaluator.heap(), last, now);
    last = now;
    return Value::Bool(changed);
  }
  Value last;
};

// The variable "loop": one object, whose attributes change from round to round.
class Loop {
 public:
  // `depth` counts the levels of a recursive loop from 0; `recurse` may be null.
  Loop(Heap& heap, const std::vector<Value>& items, int depth, Function* recurse)
      : items_(items), depth_(depth) {
    auto cycle = std::make_unique<Cycle>();
    cycle_ = cycle.get();
    const Value function = heap.NewFunction(std::move(cycle));
    std::vector<std::pair<Value, Value>> fields;
    fields.reserve(kNames.size() + 2);
    for (const std::string_view name : kNames) {
      fields.emplace_back(Value::String(name), Value::Int(0));
    }
    fields.emplace_back(Value::String("cycle"), function);
    fields.emplace_back(Value::String("changed"), heap.NewFunction(std::make_unique<Changed>()));
    object_ = heap.NewDict(std::move(fields), Kind::kNamespace);
    object_.dict().call = recurse;
  }

  const Value& object() const { return object_; }

  void SetRound(size_t index) {
    const auto count = static_cast<int64_t>(items_.size());
    const auto i = static_cast<int64_t>(index);
    const std::array<Value, kNames.size()> values = {
        Value::Int(i + 1),         Value::Int(i),       Value::Int(count - i),
        Value::Int(count - i - 1), Value::Bool(i == 0), Value::Bool(i + 1 == count),
        Value::Int(count),         Item(index - 1),     Item(index + 1),
        Value::Int(depth_ + 1),    Value::Int(depth_),
    };
    for (size_t field = 0; field < values.size(); ++field) {
      object_.dict().items[field].second = values[field];
    }
    cycle_->index = index;
  }

 private:
  static constexpr std::array<std::string_view, 11> kNames = {
      "index",  "index0",   "revindex", "revindex0", "first", "last",
      "length", "previtem", "nextitem", "depth",     "depth0"};

  Value Item(size_t at) const {
    return at < items_.size() ? items_[at] : Value::Undefined("there is no such item", "");
  }

  const std::vector<Value>& items_;
  int depth_;
  Cycle* cycle_;
  Value object_;
};

}  // namespace

struct Macro final : Function {
  Macro(const Stmt* statement, Scope* scope) : stmt(statement), definition(scope) {}
  Value Call(Evaluator& evaluator, const Arguments& arguments) override {
    return evaluator.CallMacro(*stmt, definition, arguments);
  }
  const Stmt* stmt;
  Scope* definition;
};

// loop(items) in a recursive loop: what the loop writes for these items.
struct RecursiveCall final : Function {
  RecursiveCall(const Stmt* statement, Scope* around, int level)
      : stmt(statement), scope(around), depth(level) {}
  Value Call(Evaluator& evaluator, const Arguments& arguments) override {
    ArgumentReader reader("loop", arguments);
    const Value iterable = reader.Get("iterable");
    reader.Finish();
    const int line = evaluator.line_;
    std::string outer;
    outer.swap(evaluator.out_);
    evaluator.RunLoop(*stmt, iterable, scope, depth);
    outer.swap(evaluator.out_);
    evaluator.line_ = line;
    return evaluator.heap().NewString(std::move(outer));
  }
  const Stmt* stmt;
  Scope* scope;
  int depth;
};

Evaluator::Depth::Depth(Evaluator* evaluator) : evaluator_(evaluator) {
  if (++evaluator_->depth_ > kMaxDepth) {
    --evaluator_->depth_;
    Fail(ErrorCode::kResourceExhausted, "the template recurses more than ", kMaxDepth,
         " levels deep");
  }
}

std::string Evaluator::Render(const Block& block, const Json& variables, std::string_view origin) {
  try {
    Scope* globals = NewScope(nullptr);
    for (const auto& [name, value] : variables.get_ref<const Json::object_t&>()) {
      SetVariable(globals, name, heap_.FromJson(value));
    }
    top_ = NewScope(globals);
    Execute(block, top_);
    return std::move(out_);
  } catch (const Error& error) {
    throw Error(error.code(), StrCat(origin, ": line ", line_, ": ", error.what()));
  }
}

Scope* Evaluator::NewScope(const Scope* parent) {
  heap_.ChargeBytes(128);  // about what a scope with its variables takes
  return &scopes_.emplace_back(Scope{parent, {}});
}

void Evaluator::SetVariable(Scope* scope, std::string_view name, const Value& value) {
  heap_.ChargeSteps(static_cast<int64_t>(scope->variables.size() / 16));
  for (auto& [known, old] : scope->variables) {
    if (known == name) {
      old = value;
      return;
    }
  }
  scope->variables.emplace_back(name, value);
}

void Evaluator::Write(const Value& value) {
  const size_t before = out_.size();
  if (value.is_string()) {
    out_ += value.text();
  } else {
    out_ += ToString(heap_, value);
  }
  heap_.ChargeText(out_.size() - before);
}

Evaluator::Flow Evaluator::Execute(const Block& block, Scope* scope) {
  const Depth depth(this);
  for (const auto& stmt : block) {
    const Flow flow = ExecuteStatement(*stmt, scope);
    if (flow != Flow::kNormal) {
      return flow;
    }
  }
  return Flow::kNormal;
}

Evaluator::Flow Evaluator::ExecuteStatement(const Stmt& stmt, Scope* scope) {
  heap_.ChargeSteps(1);
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::kText:
      Write(Value::String(stmt.text));
      return Flow::kNormal;
    case StmtKind::kOutput:
      Write(Evaluate(*stmt.value, scope));
      return Flow::kNormal;
    case StmtKind::kIf:
      return ExecuteIf(stmt, scope);
    case StmtKind::kFor:
      return ExecuteFor(stmt, scope);
    case StmtKind::kSet:
      Assign(*stmt.target, Evaluate(*stmt.value, scope), scope);
      return Flow::kNormal;
    case StmtKind::kSetBlock: {
      Value text = Capture(stmt.body, NewScope(scope));
      if (stmt.filter != nullptr) {
        text = EvaluateFilter(*stmt.filter, &text, scope);
      }
      Assign(*stmt.target, text, scope);
      return Flow::kNormal;
    }
    case StmtKind::kMacro:
      SetVariable(scope, stmt.text, heap_.NewFunction(std::make_unique<Macro>(&stmt, scope)));
      return Flow::kNormal;
    case StmtKind::kCallBlock:
      ExecuteCallBlock(stmt, scope);
      return Flow::kNormal;
    case StmtKind::kFilterBlock: {
      const Value text = Capture(stmt.body, NewScope(scope));
      Write(EvaluateFilter(*stmt.filter, &text, scope));
      return Flow::kNormal;
    }
    case StmtKind::kWith: {
      Scope* inner = NewScope(scope);
      for (const Parameter& parameter : stmt.parameters) {
        SetVariable(inner, parameter.name, Evaluate(*parameter.default_value, scope));
      }
      return Execute(stmt.body, inner);
    }
    case StmtKind::kScope:
      return Execute(stmt.body, NewScope(scope));
    case StmtKind::kBlock:
      // Unless it says "scoped", a block does not see the variables of loops around it.
      return Execute(stmt.body, NewScope(stmt.is_scoped ? scope : top_));
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

Evaluator::Flow Evaluator::ExecuteIf(const Stmt& stmt, Scope* scope) {
  for (const Branch& branch : stmt.branches) {
    if (IsTrue(Evaluate(*branch.condition, scope))) {
      return Execute(branch.body, scope);
    }
  }
  return Execute(stmt.else_body, scope);
}

Evaluator::Flow Evaluator::ExecuteFor(const Stmt& stmt, Scope* scope) {
  RunLoop(stmt, Evaluate(*stmt.value, scope), scope, 0);
  return Flow::kNormal;
}

void Evaluator::RunLoop(const Stmt& stmt, const Value& iterable, Scope* scope, int depth) {
  const Depth recursion(this);
  std::vector<Value> items = Iterate(heap_, iterable);
  if (stmt.filter != nullptr) {
    std::vector<Value> kept;
    for (const Value& item : items) {
      Scope* inner = NewScope(scope);
      Assign(*stmt.target, item, inner);
      if (IsTrue(Evaluate(*stmt.filter, inner))) {
        kept.push_back(item);
      }
    }
    items = std::move(kept);
  }
  if (items.empty()) {
    Execute(stmt.else_body, NewScope(scope));
    return;
  }
  Function* recurse = nullptr;
  if (stmt.is_recursive) {
    const Value call = heap_.NewFunction(std::make_unique<RecursiveCall>(&stmt, scope, depth + 1));
    recurse = &call.function();
  }
  Loop loop(heap_, items, depth, recurse);
  for (size_t i = 0; i < items.size(); ++i) {
    Scope* inner = NewScope(scope);
    loop.SetRound(i);
    SetVariable(inner, "loop", loop.object());
    Assign(*stmt.target, items[i], inner);
    if (Execute(stmt.body, inner) == Flow::kBreak) {
      break;
    }
  }
}

void Evaluator::ExecuteCallBlock(const Stmt& stmt, Scope* scope) {
  const Expr& call = *stmt.value;
  const Value callee = Evaluate(*call.operands[0], scope);
  Arguments arguments = EvaluateArguments(call.arguments, scope);
  arguments.keywords.emplace_back("caller",
                                  heap_.NewFunction(std::make_unique<Macro>(&stmt, scope)));
  Write(Call(callee, arguments));
}

Value Evaluator::Capture(const Block& block, Scope* scope) {
  std::string outer;
  outer.swap(out_);
  Execute(block, scope);
  outer.swap(out_);
  return heap_.NewString(std::move(outer));
}

Value Evaluator::CallMacro(const Stmt& stmt, Scope* definition, const Arguments& arguments) {
  const int line = line_;
  Scope* scope = NewScope(definition);
  const std::string name =
      stmt.kind == StmtKind::kMacro ? StrCat("macro '", stmt.text, "'") : "caller";
  std::vector<bool> used(arguments.keywords.size());
  const auto take_keyword = [&](std::string_view keyword) -> const Value* {
    for (size_t i = 0; i < arguments.keywords.size(); ++i) {
      if (arguments.keywords[i].first == keyword) {
        used[i] = true;
        return &arguments.keywords[i].second;
      }
    }
    return nullptr;
  };
  for (size_t i = 0; i < stmt.parameters.size(); ++i) {
    const Parameter& parameter = stmt.parameters[i];
    if (i < arguments.positional.size()) {
      SetVariable(scope, parameter.name, arguments.positional[i]);
    } else if (const Value* value = take_keyword(parameter.name)) {
      SetVariable(scope, parameter.name, *value);
    } else if (parameter.default_value != nullptr) {
      SetVariable(scope, parameter.name, Evaluate(*parameter.default_value, scope));
    } else {
      SetVariable(scope, parameter.name, Value::Undefined(parameter.name, ""));
    }
  }
  if (stmt.uses_caller) {
    const Value* caller = take_keyword("caller");
    SetVariable(scope, "caller", caller != nullptr ? *caller : Value::Undefined("caller", ""));
  }
  std::vector<std::pair<Value, Value>> extra;
  for (size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) {
      if (!stmt.uses_kwargs) {
        FailRuntime(StrCat(name, " takes no keyword argument '", arguments.keywords[i].first, "'"));
      }
      extra.emplace_back(Value::String(arguments.keywords[i].first), arguments.keywords[i].second);
    }
  }
  if (stmt.uses_kwargs) {
    SetVariable(scope, "kwargs", heap_.NewDict(std::move(extra)));
  }
  const size_t known = std::min(stmt.parameters.size(), arguments.positional.size());
  if (stmt.uses_varargs) {
    std::vector<Value> rest(arguments.positional.begin() + static_cast<std::ptrdiff_t>(known),
                            arguments.positional.end());
    SetVariable(scope, "varargs", heap_.NewSequence(Kind::kTuple, std::move(rest)));
  } else if (arguments.positional.size() > known) {
    FailRuntime(StrCat(name, " takes not more than ", stmt.parameters.size(), " argument(s)"));
  }
  const Value result = Capture(stmt.body, scope);
  line_ = line;
  return result;
}

void Evaluator::Assign(const Expr& target, const Value& value, Scope* scope) {
  switch (target.kind) {
    case ExprKind::kName:
      SetVariable(scope, target.name, value);
      return;
    case ExprKind::kTuple: {
      const std::vector<Value> items = Iterate(heap_, value);
      if (items.size() != target.operands.size()) {
        FailRuntime(
            StrCat("cannot unpack ", items.size(), " values into ", target.operands.size()));
      }
      for (size_t i = 0; i < items.size(); ++i) {
        Assign(*target.operands[i], items[i], scope);
      }
      return;
    }
    default: {
      const Value object = Evaluate(*target.operands[0], scope);
      if (object.kind() != Kind::kNamespace) {
        FailRuntime("cannot assign attribute on non-namespace object");
      }
      if (target.name.starts_with('_')) {
        FailRuntime(StrCat("cannot assign the attribute '", target.name, "'"));
      }
      heap_.Set(&object.dict(), Value::String(target.name), value);
    }
  }
}

Value Evaluator::Call(const Value& callee, const Arguments& arguments) {
  const Depth depth(this);
  CheckDefined(callee);
  if (callee.kind() == Kind::kNamespace && callee.dict().call != nullptr) {
    return callee.dict().call->Call(*this, arguments);
  }
  if (callee.kind() != Kind::kFunction) {
    FailRuntime(StrCat("'", TypeName(callee), "' object is not callable"));
  }
  return callee.function().Call(*this, arguments);
}

}  // namespace dualfp::jinja
