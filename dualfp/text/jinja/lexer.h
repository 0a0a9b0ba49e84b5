// Cuts a template into tokens, as Jinja2 does in the environment that transformers gives it:
// trim_blocks, lstrip_blocks, no trailing newline.

#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dualfp::jinja {

enum class TokenKind {
  kData,  // text outside of tags
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind;
  std::string text;  // of a string: its value; of an operator: "+", "==", ...
  int line;
};

// Throws kInvalidFile, naming `origin` and the line. The result ends with kEnd.
std::vector<Token> Tokenize(std::string_view source, std::string_view origin);

}  // namespace dualfp::jinja
