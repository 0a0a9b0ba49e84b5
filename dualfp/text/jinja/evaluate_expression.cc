#include <algorithm>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/evaluator.h"

namespace dualfp::jinja {

void CheckDefined(const Value& value) {
  if (value.is_undefined()) {
    FailRuntime(value.owner().empty()
                    ? StrCat("'", value.text(), "' is undefined")
                    : StrCat("'", value.owner(), " object' has no attribute '", value.text(), "'"));
  }
}

Value Evaluator::Evaluate(const Expr& expr, Scope* scope) {
  const Depth depth(this);
  heap_.ChargeSteps(1);
  line_ = expr.line;
  switch (expr.kind) {
    case ExprKind::kConstant:
      return EvaluateConstant(expr);
    case ExprKind::kName:
      return EvaluateName(expr, scope);
    case ExprKind::kList:
      return heap_.NewList(EvaluateAll(expr.operands, scope));
    case ExprKind::kTuple:
      return heap_.NewSequence(Kind::kTuple, EvaluateAll(expr.operands, scope));
    case ExprKind::kDict: {
      const Value dict = heap_.NewDict();
      for (size_t i = 0; i + 1 < expr.operands.size(); i += 2) {
        const Value key = Evaluate(*expr.operands[i], scope);
        if (key.kind() == Kind::kList || key.is_dict()) {
          FailRuntime(StrCat("unhashable type: '", TypeName(key), "'"));
        }
        heap_.Set(&dict.dict(), key, Evaluate(*expr.operands[i + 1], scope));
      }
      return dict;
    }
    case ExprKind::kNot:
      return Value::Bool(!IsTrue(Evaluate(*expr.operands[0], scope)));
    case ExprKind::kNegate:
      return Arithmetic(heap_, "*", Value::Int(-1), Evaluate(*expr.operands[0], scope));
    case ExprKind::kPlus:
      return Arithmetic(heap_, "*", Value::Int(1), Evaluate(*expr.operands[0], scope));
    case ExprKind::kAnd: {
      const Value left = Evaluate(*expr.operands[0], scope);
      return IsTrue(left) ? Evaluate(*expr.operands[1], scope) : left;
    }
    case ExprKind::kOr: {
      const Value left = Evaluate(*expr.operands[0], scope);
      return IsTrue(left) ? left : Evaluate(*expr.operands[1], scope);
    }
    case ExprKind::kBinary:
      return EvaluateBinary(expr, scope);
    case ExprKind::kConcat:
      return Concat(heap_, EvaluateAll(expr.operands, scope));
    case ExprKind::kCompare:
      return EvaluateCompare(expr, scope);
    case ExprKind::kCondition:
      if (IsTrue(Evaluate(*expr.operands[0], scope))) {
        return Evaluate(*expr.operands[1], scope);
      }
      return expr.operands[2] != nullptr
                 ? Evaluate(*expr.operands[2], scope)
                 : Value::Undefined("the inline if-expression without else", "");
    case ExprKind::kAttribute:
      return GetAttribute(Evaluate(*expr.operands[0], scope), expr.name);
    case ExprKind::kItem: {
      const Value object = Evaluate(*expr.operands[0], scope);
      return GetItem(object, Evaluate(*expr.operands[1], scope));
    }
    case ExprKind::kSlice:
      return EvaluateSlice(expr, scope);
    case ExprKind::kCall: {
      const Value callee = Evaluate(*expr.operands[0], scope);
      const Arguments arguments = EvaluateArguments(expr.arguments, scope);
      line_ = expr.line;
      return Call(callee, arguments);
    }
    case ExprKind::kFilter: {
      const Value operand = Evaluate(*expr.operands[0], scope);
      return EvaluateFilter(expr, &operand, scope);
    }
    case ExprKind::kTest: {
      const Value operand = Evaluate(*expr.operands[0], scope);
      const Arguments arguments = EvaluateArguments(expr.arguments, scope);
      return Value::Bool(ApplyTest(expr.name, operand, arguments));
    }
  }
  return Value();
}

Value Evaluator::EvaluateConstant(const Expr& expr) {
  if (const auto* text = std::get_if<std::string>(&expr.constant)) {
    return Value::String(*text);
  }
  if (const auto* integer = std::get_if<int64_t>(&expr.constant)) {
    return Value::Int(*integer);
  }
  if (const auto* big = std::get_if<std::unique_ptr<const BigInt>>(&expr.constant)) {
    return Value::Big(big->get());
  }
  if (const auto* boolean = std::get_if<bool>(&expr.constant)) {
    return Value::Bool(*boolean);
  }
  if (const auto* number = std::get_if<double>(&expr.constant)) {
    return Value::Float(*number);
  }
  return Value::None();
}

Value Evaluator::EvaluateName(const Expr& expr, Scope* scope) {
  for (const Scope* at = scope; at != nullptr; at = at->parent) {
    heap_.ChargeSteps(static_cast<int64_t>(at->variables.size() / 16));
    for (const auto& [name, value] : at->variables) {
      if (name == expr.name) {
        return value;
      }
    }
  }
  const Value global = FindGlobal(heap_, expr.name);
  return global.is_undefined() ? Value::Undefined(expr.name, "") : global;
}

std::vector<Value> Evaluator::EvaluateAll(const std::vector<ExprPtr>& exprs, Scope* scope) {
  std::vector<Value> values;
  values.reserve(exprs.size());
  for (const ExprPtr& expr : exprs) {
    values.push_back(Evaluate(*expr, scope));
  }
  return values;
}

Value Evaluator::EvaluateBinary(const Expr& expr, Scope* scope) {
  const Value left = Evaluate(*expr.operands[0], scope);
  const Value right = Evaluate(*expr.operands[1], scope);
  line_ = expr.line;
  return expr.name == "+" ? Add(heap_, left, right) : Arithmetic(heap_, expr.name, left, right);
}

Value Evaluator::EvaluateCompare(const Expr& expr, Scope* scope) {
  Value left = Evaluate(*expr.operands[0], scope);
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    const Value right = Evaluate(*expr.operands[i + 1], scope);
    const std::string& op = expr.operators[i];
    bool holds;
    if (op == "==") {
      holds = Equal(heap_, left, right);
    } else if (op == "!=") {
      holds = !Equal(heap_, left, right);
    } else if (op == "in") {
      holds = Contains(heap_, right, left);
    } else if (op == "not in") {
      holds = !Contains(heap_, right, left);
    } else {
      CheckDefined(left);
      CheckDefined(right);
      if (op == "<") {
        holds = Less(heap_, left, right);
      } else if (op == ">") {
        holds = Less(heap_, right, left);
      } else if (op == "<=") {
        holds = Less(heap_, left, right) || Equal(heap_, left, right);
      } else {
        holds = Less(heap_, right, left) || Equal(heap_, left, right);
      }
    }
    if (!holds) {
      return Value::Bool(false);
    }
    left = right;
  }
  return Value::Bool(true);
}

Value Evaluator::EvaluateSlice(const Expr& expr, Scope* scope) {
  const Value object = Evaluate(*expr.operands[0], scope);
  Value parts[3];
  for (size_t i = 0; i < 3; ++i) {
    const ExprPtr& part = expr.operands[i + 1];
    parts[i] = part != nullptr ? Evaluate(*part, scope) : Value::None();
  }
  return Slice(heap_, object, parts[0], parts[1], parts[2]);
}

// `operand` is what is filtered when a chain begins without one, in a filter block.
Value Evaluator::EvaluateFilter(const Expr& expr, const Value* operand, Scope* scope) {
  Value input = *operand;
  // In {% filter a | b %} the operand goes to the innermost filter; in an expression it has been
  // evaluated already.
  if (expr.operands[0] != nullptr && expr.operands[0]->kind == ExprKind::kFilter) {
    const Expr* innermost = expr.operands[0].get();
    while (innermost->operands[0] != nullptr && innermost->operands[0]->kind == ExprKind::kFilter) {
      innermost = innermost->operands[0].get();
    }
    if (innermost->operands[0] == nullptr) {
      input = EvaluateFilter(*expr.operands[0], operand, scope);
    }
  }
  const Arguments arguments = EvaluateArguments(expr.arguments, scope);
  line_ = expr.line;
  return ApplyFilter(expr.name, input, arguments);
}

Arguments Evaluator::EvaluateArguments(const CallArguments& arguments, Scope* scope) {
  Arguments result;
  result.positional = EvaluateAll(arguments.positional, scope);
  for (const Keyword& keyword : arguments.keywords) {
    result.keywords.emplace_back(keyword.name, Evaluate(*keyword.value, scope));
  }
  if (arguments.star != nullptr) {
    const std::vector<Value> more = Iterate(heap_, Evaluate(*arguments.star, scope));
    result.positional.insert(result.positional.end(), more.begin(), more.end());
  }
  if (arguments.double_star != nullptr) {
    const Value more = Evaluate(*arguments.double_star, scope);
    if (!more.is_dict()) {
      FailRuntime(StrCat("argument after ** must be a mapping, not ", TypeName(more)));
    }
    for (const auto& [key, value] : more.dict().items) {
      if (!key.is_string()) {
        FailRuntime("keywords must be strings");
      }
      result.keywords.emplace_back(key.text(), value);
    }
  }
  return result;
}

Value Evaluator::GetAttribute(const Value& object, std::string_view name) {
  CheckDefined(object);
  if (object.kind() == Kind::kNamespace) {
    const Value* value = FindKey(object.dict(), name);
    return value != nullptr ? *value : Value::Undefined(name, "Namespace");
  }
  // As in Jinja, a method hides a key of the same name: message.items is the method.
  const Value method = FindMethod(heap_, object, name);
  if (!method.is_undefined()) {
    return method;
  }
  if (object.kind() == Kind::kTuple && object.sequence().is_group &&
      (name == "grouper" || name == "list")) {
    return object.items()[name == "grouper" ? 0 : 1];
  }
  if (object.is_dict()) {
    heap_.ChargeSteps(static_cast<int64_t>(object.dict().items.size() / 8));
    if (const Value* value = FindKey(object.dict(), name)) {
      return *value;
    }
  }
  return Value::Undefined(name, TypeName(object));
}

Value Evaluator::GetItem(const Value& object, const Value& key) {
  CheckDefined(object);
  if (object.is_dict()) {
    if (const Value* value = FindKey(heap_, object.dict(), key)) {
      return *value;
    }
  } else if ((object.is_sequence() || object.is_string()) && key.is_int()) {
    const int64_t length = Length(heap_, object);
    const int64_t index = key.as_int() < 0 ? key.as_int() + length : key.as_int();
    if (index >= 0 && index < length) {
      return object.is_sequence()
                 ? object.items()[static_cast<size_t>(index)]
                 : Slice(heap_, object, Value::Int(index), Value::Int(index + 1), Value::None());
    }
  }
  if (!key.is_string()) {
    return Value::Undefined(heap_.NewString(ToString(heap_, key)).text(), TypeName(object));
  }
  if (object.kind() == Kind::kNamespace) {
    return GetAttribute(object, key.text());
  }
  const Value method = FindMethod(heap_, object, key.text());
  return method.is_undefined() ? Value::Undefined(key.text(), TypeName(object)) : method;
}

}  // namespace dualfp::jinja
