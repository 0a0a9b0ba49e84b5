// Renders a parsed template.

#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dualfp/text/jinja/ast.h"
#include "dualfp/text/jinja/value.h"

namespace dualfp::jinja {

// Variables by name, and where to look for the others.
struct Scope {
  const Scope* parent = nullptr;
  std::vector<std::pair<std::string_view, Value>> variables;
};

class Evaluator {
 public:
  Evaluator(const Heap::Limits& limits, std::time_t now) : heap_(limits), now_(now) {}

  // `variables` is an object. A failure inside the template is thrown as kInvalidArgument (or
  // kResourceExhausted for a limit), beginning with `origin` and the line.
  std::string Render(const Block& block, const Json& variables, std::string_view origin);

  Heap& heap() { return heap_; }
  std::time_t now() const { return now_; }

  Value Call(const Value& callee, const Arguments& arguments);
  Value ApplyFilter(std::string_view name, const Value& operand, const Arguments& arguments);
  bool ApplyTest(std::string_view name, const Value& operand, const Arguments& arguments);

  // object.name and object[key], as Jinja resolves them.
  Value GetAttribute(const Value& object, std::string_view name);
  Value GetItem(const Value& object, const Value& key);

 private:
  friend struct Macro;
  friend struct RecursiveCall;
  enum class Flow { kNormal, kBreak, kContinue };

  // Limits recursion.
  class Depth {
   public:
    explicit Depth(Evaluator* evaluator);
    ~Depth() { --evaluator_->depth_; }

   private:
    Evaluator* evaluator_;
  };

  Flow Execute(const Block& block, Scope* scope);
  Flow ExecuteStatement(const Stmt& stmt, Scope* scope);
  Flow ExecuteIf(const Stmt& stmt, Scope* scope);
  Flow ExecuteFor(const Stmt& stmt, Scope* scope);
  // One level of a recursive loop, or all of an ordinary one.
  void RunLoop(const Stmt& stmt, const Value& iterable, Scope* scope, int depth);
  void ExecuteCallBlock(const Stmt& stmt, Scope* scope);
  // What the block writes.
  Value Capture(const Block& block, Scope* scope);
  Value CallMacro(const Stmt& stmt, Scope* definition, const Arguments& arguments);
  void Assign(const Expr& target, const Value& value, Scope* scope);
  void SetVariable(Scope* scope, std::string_view name, const Value& value);
  Scope* NewScope(const Scope* parent);
  void Write(const Value& value);

  Value Evaluate(const Expr& expr, Scope* scope);
  Value EvaluateConstant(const Expr& expr);
  Value EvaluateName(const Expr& expr, Scope* scope);
  Value EvaluateBinary(const Expr& expr, Scope* scope);
  Value EvaluateCompare(const Expr& expr, Scope* scope);
  Value EvaluateSlice(const Expr& expr, Scope* scope);
  Value EvaluateFilter(const Expr& expr, const Value* operand, Scope* scope);
  Arguments EvaluateArguments(const CallArguments& arguments, Scope* scope);
  std::vector<Value> EvaluateAll(const std::vector<ExprPtr>& exprs, Scope* scope);

  Heap heap_;
  std::time_t now_;
  std::deque<Scope> scopes_;
  Scope* top_ = nullptr;  // of the statements outside of all others
  std::string out_;
  int depth_ = 0;
  int line_ = 0;  // of what is being evaluated, for messages
};

// The functions every template has: range, dict, namespace, cycler, joiner, raise_exception,
// strftime_now.
// Undefined when there is none of that name.
Value FindGlobal(Heap& heap, std::string_view name);

bool IsFilterName(std::string_view name);

// A method of a string, list or dict, bound to it; undefined when there is none of that name.
Value FindMethod(Heap& heap, const Value& object, std::string_view name);

// Throws "'x' is undefined" or "'dict object' has no attribute 'x'" for an undefined value.
void CheckDefined(const Value& value);

// Arithmetic, with Python's rules; throws for other types.
Value Add(Heap& heap, const Value& a, const Value& b);
Value Arithmetic(Heap& heap, std::string_view op, const Value& a, const Value& b);
Value Concat(Heap& heap, const std::vector<Value>& values);
Value Slice(Heap& heap, const Value& object, const Value& start, const Value& stop,
            const Value& step);
std::string EscapeHtml(std::string_view text);

}  // namespace dualfp::jinja
