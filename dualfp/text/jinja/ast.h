// A parsed template.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "dualfp/text/jinja/big_int.h"

namespace dualfp::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Block = std::vector<std::unique_ptr<Stmt>>;

enum class ExprKind : uint8_t {
  kConstant,
  kName,
  kList,   // operands: the items
  kTuple,  // operands: the items
  kDict,   // operands: key, value, key, value, ...
  kNot,
  kNegate,
  kPlus,
  kAnd,
  kOr,
  kBinary,     // name: the operator
  kConcat,     // operands joined by ~
  kCompare,    // operands compared in a row by operators
  kCondition,  // operands: condition, value, other value (may be null)
  kAttribute,  // operand.name
  kItem,       // operands: object, key
  kSlice,      // operands: object, start, stop, step (each may be null)
  kCall,       // operands[0](arguments)
  kFilter,     // operands[0] (null in a filter block) | name(arguments)
  kTest,       // operands[0] is name(arguments)
};

struct Keyword {
  std::string name;
  ExprPtr value;
};

struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<Keyword> keywords;
  ExprPtr star;         // *expression, or null
  ExprPtr double_star;  // **expression, or null
};

struct Expr {
  ExprKind kind;
  int line;
  int depth = 1;  // of the tree below
  std::string name;
  // monostate: none
  std::variant<std::monostate, bool, int64_t, std::unique_ptr<const BigInt>, double, std::string>
      constant;
  std::vector<ExprPtr> operands;
  std::vector<std::string> operators;
  CallArguments arguments;
};

enum class StmtKind : uint8_t {
  kText,
  kOutput,
  kIf,
  kFor,
  kSet,       // target = value
  kSetBlock,  // target = rendered body, through filter
  kMacro,
  kCallBlock,
  kFilterBlock,
  kWith,
  kScope,  // body only: {% generation %}, {% autoescape false %}
  kBlock,  // {% block name %}
  kBreak,
  kContinue,
};

struct Parameter {
  std::string name;
  ExprPtr default_value;  // may be null
};

struct Branch {
  ExprPtr condition;
  Block body;
};

struct Stmt {
  StmtKind kind;
  int line;
  std::string text;  // kText; the name of a kMacro
  ExprPtr target;    // kFor, kSet, kSetBlock: kName, kTuple or, in kSet, kAttribute of a kName
  ExprPtr value;     // kOutput, kFor (what is iterated over), kSet, kCallBlock (a kCall)
  ExprPtr filter;    // kFor: the condition; kSetBlock, kFilterBlock: a kFilter; may be null
  Block body;
  Block else_body;                    // kIf, kFor
  std::vector<Branch> branches;       // kIf
  std::vector<Parameter> parameters;  // kMacro, kCallBlock; kWith: names and values
  bool is_recursive = false;          // kFor
  bool is_scoped = false;             // kBlock
  bool uses_varargs = false;          // kMacro, kCallBlock: the body mentions varargs, ...
  bool uses_kwargs = false;
  bool uses_caller = false;
};

}  // namespace dualfp::jinja
