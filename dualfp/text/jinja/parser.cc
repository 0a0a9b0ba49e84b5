#include "dualfp/text/jinja/parser.h"

#include <algorithm>
#include <set>
#include <string>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/parser_internal.h"

namespace dualfp::jinja {
namespace {

class Parser final : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Block ParseTemplate() {
    Block block = ParseBlock({});
    if (Current().kind != TokenKind::kEnd) {
      FailSyntax(StrCat("unexpected tag '", Current().text, "'"));
    }
    return block;
  }

 private:
  using EndNames = std::vector<std::string_view>;

  std::unique_ptr<Stmt> Make(StmtKind kind, int line) {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = line;
    return stmt;
  }

  // Statements up to a block whose name is one of `ends`; that name is the current token then.
  Block ParseBlock(const EndNames& ends) {
    const Nesting nesting(this);
    Block block;
    while (Current().kind != TokenKind::kEnd) {
      const int line = Current().line;
      if (Current().kind == TokenKind::kData) {
        block.push_back(Make(StmtKind::kText, line));
        block.back()->text = Take().text;
      } else if (Current().kind == TokenKind::kVariableBegin) {
        Take();
        block.push_back(Make(StmtKind::kOutput, line));
        block.back()->value = ParseTuple(true);
        Expect(TokenKind::kVariableEnd, "'}}'");
      } else {
        Expect(TokenKind::kBlockBegin, "a tag");
        if (Current().kind == TokenKind::kName &&
            std::find(ends.begin(), ends.end(), Current().text) != ends.end()) {
          return block;
        }
        block.push_back(ParseStatement());
        Expect(TokenKind::kBlockEnd, "'%}'");
      }
    }
    if (!ends.empty()) {
      FailUnexpected(StrCat("{% ", ends.back(), " %}"));
    }
    return block;
  }

  // The rest of a tag, and the block after it up to one of `ends`.
  Block ParseBody(const EndNames& ends) {
    SkipOperator(":");
    Expect(TokenKind::kBlockEnd, "'%}'");
    return ParseBlock(ends);
  }

  std::unique_ptr<Stmt> ParseStatement() {
    const int line = Current().line;
    const std::string tag = ExpectName();
    if (tag == "if") return ParseIf(line);
    if (tag == "for") return ParseFor(line);
    if (tag == "set") return ParseSet(line);
    if (tag == "macro") return ParseMacro(line);
    if (tag == "call") return ParseCall(line);
    if (tag == "filter") return ParseFilterBlock(line);
    if (tag == "with") return ParseWith(line);
    if (tag == "block") return ParseBlockTag(line);
    if (tag == "autoescape") return ParseAutoescape(line);
    if (tag == "generation") {
      auto stmt = Make(StmtKind::kScope, line);
      stmt->body = ParseBody({"endgeneration"});
      Take();
      return stmt;
    }
    if (tag == "break" || tag == "continue") {
      if (loops_ == 0) {
        FailSyntax(StrCat("'", tag, "' outside of a loop"));
      }
      return Make(tag == "break" ? StmtKind::kBreak : StmtKind::kContinue, line);
    }
    if (tag == "include" || tag == "import" || tag == "from" || tag == "extends") {
      Fail(ErrorCode::kUnsupported, origin_, ": line ", line, ": chat templates may not use {% ",
           tag, " %}");
    }
    FailSyntax(StrCat("unknown tag '", tag, "'"));
  }

  std::unique_ptr<Stmt> ParseIf(int line) {
    auto stmt = Make(StmtKind::kIf, line);
    while (true) {
      Branch branch;
      branch.condition = ParseTuple(false);
      branch.body = ParseBody({"elif", "else", "endif"});
      stmt->branches.push_back(std::move(branch));
      if (SkipName("elif")) {
        continue;
      }
      if (SkipName("else")) {
        stmt->else_body = ParseBody({"endif"});
      }
      Take();  // endif
      return stmt;
    }
  }

  std::unique_ptr<Stmt> ParseFor(int line) {
    auto stmt = Make(StmtKind::kFor, line);
    stmt->target = ParseTarget(false, "in");
    if (!SkipName("in")) {
      FailUnexpected("'in'");
    }
    stmt->value = ParseTuple(false, "recursive");
    if (SkipName("if")) {
      stmt->filter = ParseExpression();
    }
    stmt->is_recursive = SkipName("recursive");
    ++loops_;
    stmt->body = ParseBody({"else", "endfor"});
    --loops_;
    if (SkipName("else")) {
      stmt->else_body = ParseBody({"endfor"});
    }
    Take();  // endfor
    return stmt;
  }

  std::unique_ptr<Stmt> ParseSet(int line) {
    ExprPtr target = ParseTarget(true);
    if (SkipOperator("=")) {
      auto stmt = Make(StmtKind::kSet, line);
      stmt->target = std::move(target);
      stmt->value = ParseTuple(true);
      return stmt;
    }
    auto stmt = Make(StmtKind::kSetBlock, line);
    stmt->target = std::move(target);
    if (IsOperator("|")) {
      stmt->filter = ParseFilters(nullptr, false);
    }
    stmt->body = ParseInnerBody("endset");
    return stmt;
  }

  // A body that is rendered on its own: a loop around it cannot be left from inside.
  Block ParseInnerBody(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Block body = ParseBody({end});
    loops_ = loops;
    Take();
    return body;
  }

  void ParseParameters(Stmt* stmt) {
    ExpectOperator("(");
    while (!IsOperator(")")) {
      if (!stmt->parameters.empty()) {
        ExpectOperator(",");
      }
      Parameter parameter;
      parameter.name = ExpectName();
      if (SkipOperator("=")) {
        parameter.default_value = ParseExpression();
      } else if (!stmt->parameters.empty() && stmt->parameters.back().default_value != nullptr) {
        FailSyntax("a parameter without a default after one with a default");
      }
      stmt->parameters.push_back(std::move(parameter));
    }
    ExpectOperator(")");
  }

  void ParseMacroBody(Stmt* stmt, std::string_view end) {
    macros_.emplace_back();
    stmt->body = ParseInnerBody(end);
    stmt->uses_varargs = macros_.back().varargs;
    stmt->uses_kwargs = macros_.back().kwargs;
    stmt->uses_caller = macros_.back().caller;
    macros_.pop_back();
  }

  std::unique_ptr<Stmt> ParseMacro(int line) {
    auto stmt = Make(StmtKind::kMacro, line);
    stmt->text = ExpectName();
    ParseParameters(stmt.get());
    ParseMacroBody(stmt.get(), "endmacro");
    return stmt;
  }

  std::unique_ptr<Stmt> ParseCall(int line) {
    auto stmt = Make(StmtKind::kCallBlock, line);
    if (IsOperator("(")) {
      ParseParameters(stmt.get());
    }
    stmt->value = ParseExpression();
    if (stmt->value->kind != ExprKind::kCall) {
      FailSyntax("expected a call after {% call");
    }
    ParseMacroBody(stmt.get(), "endcall");
    return stmt;
  }

  std::unique_ptr<Stmt> ParseFilterBlock(int line) {
    auto stmt = Make(StmtKind::kFilterBlock, line);
    stmt->filter = ParseFilters(nullptr, true);
    stmt->body = ParseInnerBody("endfilter");
    return stmt;
  }

  // Without templates that extend this one, a block is its body.
  std::unique_ptr<Stmt> ParseBlockTag(int line) {
    auto stmt = Make(StmtKind::kBlock, line);
    const std::string name = ExpectName();
    if (!blocks_.insert(name).second) {
      FailSyntax(StrCat("block '", name, "' defined twice"));
    }
    stmt->is_scoped = SkipName("scoped");
    if (IsName("required")) {
      Fail(ErrorCode::kUnsupported, origin_, ": line ", line, ": a required block");
    }
    stmt->body = ParseInnerBody("endblock");
    SkipName(name);
    return stmt;
  }

  std::unique_ptr<Stmt> ParseAutoescape(int line) {
    auto stmt = Make(StmtKind::kScope, line);
    if (!SkipName("false") && !SkipName("False")) {
      Fail(ErrorCode::kUnsupported, origin_, ": line ", line,
           ": chat templates may not turn on {% autoescape %}");
    }
    stmt->body = ParseBody({"endautoescape"});
    Take();
    return stmt;
  }

  std::unique_ptr<Stmt> ParseWith(int line) {
    auto stmt = Make(StmtKind::kWith, line);
    while (Current().kind != TokenKind::kBlockEnd) {
      if (!stmt->parameters.empty()) {
        ExpectOperator(",");
      }
      Parameter parameter;
      parameter.name = ExpectName();
      ExpectOperator("=");
      parameter.default_value = ParseExpression();
      stmt->parameters.push_back(std::move(parameter));
    }
    stmt->body = ParseBody({"endwith"});
    Take();
    return stmt;
  }

  int loops_ = 0;  // around what is being parsed
  std::set<std::string> blocks_;
};

}  // namespace

Block Parse(std::string_view source, std::string_view origin) {
  return Parser(Tokenize(source, origin), origin).ParseTemplate();
}

}  // namespace dualfp::jinja
