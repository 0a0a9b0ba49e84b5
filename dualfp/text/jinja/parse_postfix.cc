// What may follow a value: attributes, subscripts, calls, filters and tests.

#include <algorithm>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/parser_internal.h"

namespace dualfp::jinja {

void ExpressionParser::ParseArgumentsOf(Expr* expr) {
  expr->arguments = ParseArguments();
  const CallArguments& arguments = expr->arguments;
  const auto include = [&](const ExprPtr& argument) {
    expr->depth = std::max(expr->depth, DepthOf(argument) + 1);
  };
  std::for_each(arguments.positional.begin(), arguments.positional.end(), include);
  for (const Keyword& keyword : arguments.keywords) {
    include(keyword.value);
  }
  include(arguments.star);
  include(arguments.double_star);
  CheckDepth(*expr);
}

ExprPtr ExpressionParser::ParsePostfix(ExprPtr operand) {
  while (true) {
    const int line = Current().line;
    if (IsOperator(".") || IsOperator("[")) {
      operand = ParseSubscript(std::move(operand));
    } else if (IsOperator("(")) {
      operand = Make(ExprKind::kCall, line, List(std::move(operand)));
      ParseArgumentsOf(operand.get());
    } else {
      return operand;
    }
  }
}

ExprPtr ExpressionParser::ParseSubscript(ExprPtr object) {
  const Token op = Take();
  if (op.text == ".") {
    if (Current().kind == TokenKind::kName) {
      return Make(ExprKind::kAttribute, op.line, List(std::move(object)), Take().text);
    }
    if (Current().kind != TokenKind::kInteger) {
      FailUnexpected("a name or a number");
    }
    return Make(ExprKind::kItem, op.line, List(std::move(object), ParseNumber()));
  }
  ExprPtr parts[3];  // start, stop, step
  int part = 0;
  bool is_slice = false;
  while (!IsOperator("]")) {
    if (SkipOperator(":")) {
      is_slice = true;
      if (++part > 2) {
        FailSyntax("a slice has at most three parts");
      }
    } else if (parts[part] != nullptr) {
      FailUnexpected("']'");
    } else {
      parts[part] = ParseExpression();
    }
  }
  ExpectOperator("]");
  if (!is_slice) {
    if (parts[0] == nullptr) {
      FailSyntax("expected a subscript");
    }
    return Make(ExprKind::kItem, op.line, List(std::move(object), std::move(parts[0])));
  }
  std::vector<ExprPtr> operands = List(std::move(object));
  for (ExprPtr& slice_part : parts) {
    operands.push_back(std::move(slice_part));
  }
  return Make(ExprKind::kSlice, op.line, std::move(operands));
}

CallArguments ExpressionParser::ParseArguments() {
  const Nesting nesting(this);
  CallArguments arguments;
  ExpectOperator("(");
  bool first = true;
  while (!IsOperator(")")) {
    if (!std::exchange(first, false)) {
      ExpectOperator(",");
      if (IsOperator(")")) {
        break;
      }
    }
    if (SkipOperator("*")) {
      arguments.star = ParseExpression();
    } else if (SkipOperator("**")) {
      arguments.double_star = ParseExpression();
    } else if (Current().kind == TokenKind::kName && Next().kind == TokenKind::kOperator &&
               Next().text == "=") {
      std::string name = Take().text;
      Take();
      arguments.keywords.push_back({std::move(name), ParseExpression()});
    } else {
      if (!arguments.keywords.empty() || arguments.star || arguments.double_star) {
        FailSyntax("a positional argument after a keyword argument");
      }
      arguments.positional.push_back(ParseExpression());
    }
  }
  ExpectOperator(")");
  return arguments;
}

ExprPtr ExpressionParser::ParseFiltersAndTests(ExprPtr operand) {
  while (true) {
    const int line = Current().line;
    if (IsOperator("|")) {
      operand = ParseFilters(std::move(operand), false);
    } else if (IsName("is")) {
      operand = ParseTest(std::move(operand));
    } else if (IsOperator("(")) {
      operand = Make(ExprKind::kCall, line, List(std::move(operand)));
      ParseArgumentsOf(operand.get());
    } else {
      return operand;
    }
  }
}

ExprPtr ExpressionParser::ParseFilters(ExprPtr operand, bool starts_inline) {
  while (starts_inline || SkipOperator("|")) {
    starts_inline = false;
    const int line = Current().line;
    std::string name = ExpectName();
    std::vector<ExprPtr> operands;
    operands.push_back(std::move(operand));
    operand = Make(ExprKind::kFilter, line, std::move(operands), std::move(name));
    if (IsOperator("(")) {
      ParseArgumentsOf(operand.get());
    }
  }
  return operand;
}

ExprPtr ExpressionParser::ParseTest(ExprPtr operand) {
  const int line = Take().line;  // "is"
  const bool negated = SkipName("not");
  ExprPtr test = Make(ExprKind::kTest, line, List(std::move(operand)), ExpectName());
  const Token& token = Current();
  if (IsOperator("(")) {
    ParseArgumentsOf(test.get());
  } else if ((token.kind == TokenKind::kName && token.text != "else" && token.text != "or" &&
              token.text != "and") ||
             token.kind == TokenKind::kString || token.kind == TokenKind::kInteger ||
             token.kind == TokenKind::kFloat || IsOperator("[") || IsOperator("{")) {
    if (IsName("is")) {
      FailSyntax("tests cannot be chained with is");
    }
    const Nesting nesting(this);
    test->arguments.positional.push_back(ParsePostfix(ParsePrimary()));
  }
  return negated ? Make(ExprKind::kNot, line, List(std::move(test))) : std::move(test);
}

}  // namespace dualfp::jinja
