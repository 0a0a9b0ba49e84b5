// The expression half of the parser.

#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dualfp/text/jinja/ast.h"
#include "dualfp/text/jinja/lexer.h"

namespace dualfp::jinja {

inline int DepthOf(const ExprPtr& expr) { return expr != nullptr ? expr->depth : 0; }

// One operand, or two.
inline std::vector<ExprPtr> List(ExprPtr a, ExprPtr b = nullptr) {
  std::vector<ExprPtr> list;
  list.push_back(std::move(a));
  if (b != nullptr) {
    list.push_back(std::move(b));
  }
  return list;
}

class ExpressionParser {
 public:
  ExpressionParser(std::vector<Token> tokens, std::string_view origin)
      : tokens_(std::move(tokens)), origin_(origin) {}

 protected:
  // The names that a macro's body mentions and that change how it is called.
  struct MacroUses {
    bool varargs = false;
    bool kwargs = false;
    bool caller = false;
  };

  // Limits the recursion of the parser, and with it that of everything that walks the tree.
  class Nesting {
   public:
    explicit Nesting(ExpressionParser* parser);
    ~Nesting() { --parser_->nesting_; }

   private:
    ExpressionParser* parser_;
  };

  const Token& Current() const { return tokens_[position_]; }
  const Token& Next() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
  Token Take();
  bool IsOperator(std::string_view text) const {
    return Current().kind == TokenKind::kOperator && Current().text == text;
  }
  bool IsName(std::string_view text) const {
    return Current().kind == TokenKind::kName && Current().text == text;
  }
  bool SkipOperator(std::string_view text);
  bool SkipName(std::string_view text);
  void ExpectOperator(std::string_view text);
  std::string ExpectName();
  void Expect(TokenKind kind, std::string_view what);
  [[noreturn]] void FailSyntax(const std::string& message) const;
  [[noreturn]] void FailUnexpected(std::string_view expected) const;

  ExprPtr Make(ExprKind kind, int line, std::vector<ExprPtr> operands = {}, std::string name = "");

  ExprPtr ParseExpression(bool with_condition = true);
  // One expression, or several with commas between them: a tuple. `end_name` ends it.
  ExprPtr ParseTuple(bool with_condition, std::string_view end_name = "", bool in_parens = false);
  // A name, several names, or with `with_namespace` also name.attribute.
  ExprPtr ParseTarget(bool with_namespace, std::string_view end_name = "");
  ExprPtr ParseFilters(ExprPtr operand, bool starts_inline);
  CallArguments ParseArguments();
  void ParseArgumentsOf(Expr* expr);
  void CheckDepth(const Expr& expr) const;

  std::vector<MacroUses> macros_;  // the macros around what is being parsed

 private:
  ExprPtr ParseOr();
  ExprPtr ParseAnd();
  ExprPtr ParseNot();
  ExprPtr ParseCompare();
  ExprPtr ParseSum();
  ExprPtr ParseConcat();
  ExprPtr ParseProduct();
  ExprPtr ParsePower();
  ExprPtr ParseUnary(bool with_filters);
  ExprPtr ParsePrimary();
  ExprPtr ParseNumber();
  ExprPtr ParsePostfix(ExprPtr operand);
  ExprPtr ParseSubscript(ExprPtr object);
  ExprPtr ParseFiltersAndTests(ExprPtr operand);
  ExprPtr ParseTest(ExprPtr operand);
  ExprPtr ParseListOrDict();
  ExprPtr ParseTargetItem(bool with_namespace);
  void NoteMacroUse(std::string_view name);

  std::vector<Token> tokens_;
  size_t position_ = 0;
  int nesting_ = 0;

 protected:
  std::string_view origin_;
};

}  // namespace dualfp::jinja
