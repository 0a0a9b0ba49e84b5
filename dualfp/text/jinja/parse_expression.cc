#include <algorithm>
#include <charconv>
#include <optional>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/parser_internal.h"

namespace dualfp::jinja {
namespace {

constexpr int kMaxNesting = 100;
constexpr int kMaxDepth = 400;

// Python's limit on the digits of an integer.
constexpr size_t kMaxIntegerDigits = 4300;

}  // namespace

ExpressionParser::Nesting::Nesting(ExpressionParser* parser) : parser_(parser) {
  if (++parser_->nesting_ > kMaxNesting) {
    --parser_->nesting_;
    parser_->FailSyntax(StrCat("nested more than ", kMaxNesting, " levels deep"));
  }
}

Token ExpressionParser::Take() {
  Token token = Current();
  if (token.kind != TokenKind::kEnd) {
    ++position_;
  }
  return token;
}

bool ExpressionParser::SkipOperator(std::string_view text) {
  const bool found = IsOperator(text);
  position_ += found ? 1 : 0;
  return found;
}

bool ExpressionParser::SkipName(std::string_view text) {
  const bool found = IsName(text);
  position_ += found ? 1 : 0;
  return found;
}

void ExpressionParser::ExpectOperator(std::string_view text) {
  if (!SkipOperator(text)) {
    FailUnexpected(StrCat("'", text, "'"));
  }
}

std::string ExpressionParser::ExpectName() {
  if (Current().kind != TokenKind::kName) {
    FailUnexpected("a name");
  }
  return Take().text;
}

void ExpressionParser::Expect(TokenKind kind, std::string_view what) {
  if (Current().kind != kind) {
    FailUnexpected(what);
  }
  Take();
}

void ExpressionParser::FailSyntax(const std::string& message) const {
  Fail(ErrorCode::kInvalidFile, origin_, ": line ", Current().line, ": ", message);
}

void ExpressionParser::FailUnexpected(std::string_view expected) const {
  const Token& token = Current();
  const std::string got = token.kind == TokenKind::kEnd           ? "the end of the template"
                          : token.kind == TokenKind::kVariableEnd ? "'}}'"
                          : token.kind == TokenKind::kBlockEnd    ? "'%}'"
                                                                  : StrCat("'", token.text, "'");
  FailSyntax(StrCat("expected ", expected, ", got ", got));
}

ExprPtr ExpressionParser::Make(ExprKind kind, int line, std::vector<ExprPtr> operands,
                               std::string name) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  expr->name = std::move(name);
  for (const ExprPtr& operand : operands) {
    expr->depth = std::max(expr->depth, DepthOf(operand) + 1);
  }
  expr->operands = std::move(operands);
  CheckDepth(*expr);
  return expr;
}

void ExpressionParser::CheckDepth(const Expr& expr) const {
  if (expr.depth > kMaxDepth) {
    FailSyntax(StrCat("an expression nested more than ", kMaxDepth, " levels deep"));
  }
}

ExprPtr ExpressionParser::ParseExpression(bool with_condition) {
  const Nesting nesting(this);
  if (!with_condition) {
    return ParseOr();
  }
  const int line = Current().line;
  ExprPtr value = ParseOr();
  while (SkipName("if")) {
    ExprPtr condition = ParseOr();
    ExprPtr other = SkipName("else") ? ParseExpression() : nullptr;
    std::vector<ExprPtr> operands = List(std::move(condition), std::move(value));
    operands.push_back(std::move(other));
    value = Make(ExprKind::kCondition, line, std::move(operands));
  }
  return value;
}

ExprPtr ExpressionParser::ParseOr() {
  ExprPtr left = ParseAnd();
  while (IsName("or")) {
    const int line = Take().line;
    left = Make(ExprKind::kOr, line, List(std::move(left), ParseAnd()));
  }
  return left;
}

ExprPtr ExpressionParser::ParseAnd() {
  ExprPtr left = ParseNot();
  while (IsName("and")) {
    const int line = Take().line;
    left = Make(ExprKind::kAnd, line, List(std::move(left), ParseNot()));
  }
  return left;
}

ExprPtr ExpressionParser::ParseNot() {
  if (IsName("not")) {
    const Nesting nesting(this);
    const int line = Take().line;
    return Make(ExprKind::kNot, line, List(ParseNot()));
  }
  return ParseCompare();
}

ExprPtr ExpressionParser::ParseCompare() {
  const int line = Current().line;
  std::vector<ExprPtr> operands = List(ParseSum());
  std::vector<std::string> operators;
  while (true) {
    const Token& token = Current();
    if (token.kind == TokenKind::kOperator &&
        (token.text == "==" || token.text == "!=" || token.text == "<" || token.text == "<=" ||
         token.text == ">" || token.text == ">=")) {
      operators.push_back(Take().text);
    } else if (SkipName("in")) {
      operators.push_back("in");
    } else if (IsName("not") && Next().kind == TokenKind::kName && Next().text == "in") {
      Take();
      Take();
      operators.push_back("not in");
    } else {
      break;
    }
    operands.push_back(ParseSum());
  }
  if (operators.empty()) {
    return std::move(operands[0]);
  }
  ExprPtr compare = Make(ExprKind::kCompare, line, std::move(operands));
  compare->operators = std::move(operators);
  return compare;
}

// In Jinja ~ binds tighter than + and -.
ExprPtr ExpressionParser::ParseSum() {
  ExprPtr left = ParseConcat();
  while (IsOperator("+") || IsOperator("-")) {
    const Token op = Take();
    left = Make(ExprKind::kBinary, op.line, List(std::move(left), ParseConcat()), op.text);
  }
  return left;
}

ExprPtr ExpressionParser::ParseConcat() {
  const int line = Current().line;
  std::vector<ExprPtr> operands = List(ParseProduct());
  while (SkipOperator("~")) {
    operands.push_back(ParseProduct());
  }
  return operands.size() == 1 ? std::move(operands[0])
                              : Make(ExprKind::kConcat, line, std::move(operands));
}

ExprPtr ExpressionParser::ParseProduct() {
  ExprPtr left = ParsePower();
  while (IsOperator("*") || IsOperator("/") || IsOperator("//") || IsOperator("%")) {
    const Token op = Take();
    left = Make(ExprKind::kBinary, op.line, List(std::move(left), ParsePower()), op.text);
  }
  return left;
}

ExprPtr ExpressionParser::ParsePower() {
  ExprPtr left = ParseUnary(true);
  while (IsOperator("**")) {
    const Token op = Take();
    left = Make(ExprKind::kBinary, op.line, List(std::move(left), ParseUnary(true)), op.text);
  }
  return left;
}

ExprPtr ExpressionParser::ParseUnary(bool with_filters) {
  ExprPtr node;
  if (IsOperator("-") || IsOperator("+")) {
    const Nesting nesting(this);
    const Token op = Take();
    node = Make(op.text == "-" ? ExprKind::kNegate : ExprKind::kPlus, op.line,
                List(ParseUnary(false)));
  } else {
    node = ParsePrimary();
  }
  node = ParsePostfix(std::move(node));
  return with_filters ? ParseFiltersAndTests(std::move(node)) : std::move(node);
}

void ExpressionParser::NoteMacroUse(std::string_view name) {
  for (MacroUses& macro : macros_) {
    macro.varargs = macro.varargs || name == "varargs";
    macro.kwargs = macro.kwargs || name == "kwargs";
    macro.caller = macro.caller || name == "caller";
  }
}

ExprPtr ExpressionParser::ParsePrimary() {
  const Token& token = Current();
  const int line = token.line;
  switch (token.kind) {
    case TokenKind::kName: {
      const std::string name = Take().text;
      if (name == "true" || name == "True" || name == "false" || name == "False") {
        ExprPtr constant = Make(ExprKind::kConstant, line);
        constant->constant = name == "true" || name == "True";
        return constant;
      }
      if (name == "none" || name == "None") {
        return Make(ExprKind::kConstant, line);
      }
      NoteMacroUse(name);
      return Make(ExprKind::kName, line, {}, name);
    }
    case TokenKind::kString: {
      // Strings next to each other are one.
      std::string text = Take().text;
      while (Current().kind == TokenKind::kString) {
        text += Take().text;
      }
      ExprPtr constant = Make(ExprKind::kConstant, line);
      constant->constant = std::move(text);
      return constant;
    }
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return ParseNumber();
    case TokenKind::kOperator:
      if (SkipOperator("(")) {
        ExprPtr inside = ParseTuple(true, "", /*in_parens=*/true);
        ExpectOperator(")");
        return inside;
      }
      if (token.text == "[" || token.text == "{") {
        return ParseListOrDict();
      }
      [[fallthrough]];
    default:
      FailUnexpected("an expression");
  }
}

ExprPtr ExpressionParser::ParseNumber() {
  const Token token = Current();
  ExprPtr constant = Make(ExprKind::kConstant, token.line);
  if (token.kind == TokenKind::kFloat) {
    double value = 0;
    const char* begin = token.text.data();
    if (std::from_chars(begin, begin + token.text.size(), value).ec != std::errc()) {
      FailSyntax(StrCat("number out of range: ", token.text));
    }
    constant->constant = value;
  } else {
    const bool has_prefix = token.text.size() > 2 && token.text[1] > '9';
    const char letter = has_prefix ? static_cast<char>(token.text[1] | 0x20) : '\0';
    const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
    std::optional<BigInt> value;
    if (token.text.size() <= kMaxIntegerDigits) {
      value = BigInt::Parse(std::string_view(token.text).substr(has_prefix ? 2 : 0), base);
    }
    if (!value) {
      FailSyntax(StrCat("number out of range: ", token.text.substr(0, 40)));
    }
    if (const std::optional<int64_t> small = value->ToInt64()) {
      constant->constant = *small;
    } else {
      constant->constant = std::make_unique<const BigInt>(std::move(*value));
    }
  }
  Take();
  return constant;
}

ExprPtr ExpressionParser::ParseListOrDict() {
  const Token open = Take();
  const bool is_dict = open.text == "{";
  const std::string_view close = is_dict ? "}" : "]";
  std::vector<ExprPtr> items;
  while (!IsOperator(close)) {
    if (!items.empty()) {
      ExpectOperator(",");
      if (IsOperator(close)) {
        break;
      }
    }
    items.push_back(ParseExpression());
    if (is_dict) {
      ExpectOperator(":");
      items.push_back(ParseExpression());
    }
  }
  ExpectOperator(close);
  return Make(is_dict ? ExprKind::kDict : ExprKind::kList, open.line, std::move(items));
}

ExprPtr ExpressionParser::ParseTuple(bool with_condition, std::string_view end_name,
                                     bool in_parens) {
  const int line = Current().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) {
      ExpectOperator(",");
    }
    const TokenKind kind = Current().kind;
    if (kind == TokenKind::kVariableEnd || kind == TokenKind::kBlockEnd || IsOperator(")") ||
        (!end_name.empty() && IsName(end_name))) {
      break;
    }
    items.push_back(ParseExpression(with_condition));
    if (!IsOperator(",")) {
      break;
    }
    is_tuple = true;
  }
  if (!is_tuple && items.size() == 1) {
    return std::move(items[0]);
  }
  if (items.empty() && !in_parens) {
    FailUnexpected("an expression");
  }
  return Make(ExprKind::kTuple, line, std::move(items));
}

ExprPtr ExpressionParser::ParseTargetItem(bool with_namespace) {
  const int line = Current().line;
  if (SkipOperator("(")) {
    const Nesting nesting(this);
    ExprPtr inside = ParseTarget(with_namespace);
    ExpectOperator(")");
    return inside;
  }
  std::string name = ExpectName();
  if (name == "true" || name == "True" || name == "false" || name == "False" || name == "none" ||
      name == "None") {
    FailSyntax(StrCat("cannot assign to ", name));
  }
  ExprPtr target = Make(ExprKind::kName, line, {}, std::move(name));
  if (with_namespace && SkipOperator(".")) {
    target = Make(ExprKind::kAttribute, line, List(std::move(target)), ExpectName());
  }
  return target;
}

ExprPtr ExpressionParser::ParseTarget(bool with_namespace, std::string_view end_name) {
  const int line = Current().line;
  std::vector<ExprPtr> items = List(ParseTargetItem(with_namespace));
  bool is_tuple = false;
  while (SkipOperator(",")) {
    is_tuple = true;
    if (IsOperator(")") || IsOperator("=") || Current().kind == TokenKind::kBlockEnd ||
        (!end_name.empty() && IsName(end_name))) {
      break;
    }
    items.push_back(ParseTargetItem(with_namespace));
  }
  return is_tuple ? Make(ExprKind::kTuple, line, std::move(items)) : std::move(items[0]);
}

}  // namespace dualfp::jinja
