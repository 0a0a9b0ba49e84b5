// Runs cases for the tests that compare us with Hugging Face's libraries (text_golden_test.py).
//
//   text_golden_tool tokenize DIRECTORY < cases > results
//   text_golden_tool template < cases > results
//   text_golden_tool regex < cases > results
//
// Cases and results are JSON, one a line. A failure is the result {"error": message}.

#include <cstdint>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"
#include "dualfp/text/chat_formatter.h"
#include "dualfp/text/detokenizer.h"
#include "dualfp/text/regex/regex.h"
#include "dualfp/text/tokenizer.h"

namespace dualfp {
namespace {

// {"text": ..., or "bytes": hexadecimal; "special": bool, "parse_special": bool,
//  "max_length": int, "left": bool, "decode": bool} -> ids and their decodings
// {"ids": [...]} -> their decodings
Json Tokenize(const Tokenizer& tokenizer, const JsonFields& fields) {
  std::vector<int32_t> ids;
  if (fields.Has("ids")) {
    for (const Json& id : *fields.FindRaw("ids")) {
      ids.push_back(id.get<int32_t>());
    }
  } else {
    std::string text = fields.FindString("text").value_or("");
    const std::string hex = fields.FindString("bytes").value_or("");
    for (size_t i = 0; i + 1 < hex.size(); i += 2) {
      text += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
    EncodeOptions options;
    options.add_special_tokens = fields.FindBool("special").value_or(true);
    options.parse_special_tokens = fields.FindBool("parse_special").value_or(true);
    options.max_length = fields.FindInt("max_length", 0, 1 << 30);
    if (fields.FindBool("left").value_or(false)) {
      options.truncation_side = EncodeOptions::Side::kLeft;
    }
    ids = tokenizer.Encode(text, options);
  }
  if (!fields.FindBool("decode").value_or(true)) {
    return {{"ids", ids}};
  }
  Json result = {{"ids", ids},
                 {"all", tokenizer.Decode(ids, false)},
                 {"skipped", tokenizer.Decode(ids, true)}};
  Json stream = Json::array();
  Detokenizer detokenizer(tokenizer, false);
  for (const int32_t id : ids) {
    stream.push_back(detokenizer.Push(id));
  }
  stream.push_back(detokenizer.Finish());
  result["stream"] = std::move(stream);
  return result;
}

// {"template": source, "variables": {...}, "now": seconds since 1970} -> {"text": ...}
// {"directory": ..., "request": {"messages": ..., "tools": ..., ...}} -> {"text": ...}
Json RenderTemplate(const JsonFields& fields) {
  ChatTemplateOptions options;
  options.now = fields.FindInt("now", 0, INT32_MAX);
  options.max_steps = fields.FindInt("max_steps", 0, INT64_MAX).value_or(options.max_steps);
  if (!fields.Has("directory")) {
    const ChatTemplate chat_template(fields.GetString("template"), "template");
    return {{"text", chat_template.Render(*fields.FindRaw("variables"), options)}};
  }
  const TokenizerConfig config = LoadTokenizerConfig(fields.GetString("directory"));
  const JsonFields input = fields.GetObject("request");
  ChatRequest request;
  request.messages = *input.FindRaw("messages");
  request.tools = input.Has("tools") ? *input.FindRaw("tools") : Json();
  request.continue_final_message = input.FindBool("continue_final_message").value_or(false);
  request.add_generation_prompt =
      input.FindBool("add_generation_prompt").value_or(!request.continue_final_message);
  request.extra = input.Has("extra") ? *input.FindRaw("extra") : Json::object();
  const TokenizerConfig::Template* chosen = config.ChooseChatTemplate(!request.tools.is_null());
  Check(chosen != nullptr, ErrorCode::kNotFound, "no chat template");
  return {{"text", ChatFormatter(ChatTemplate(chosen->source, chosen->origin))
                       .Format(request, config, options)}};
}

// {"pattern": ..., "text": ...} -> the parts of the text between the matches, and the matches
Json MatchRegex(const JsonFields& fields) {
  const Regex regex(fields.GetString("pattern"), "case");
  const std::string text = fields.GetString("text");
  RegexScratch scratch;
  Json parts = Json::array();
  size_t covered = 0;
  const auto add = [&](size_t begin, size_t end) {
    if (begin < end) {
      parts.push_back(text.substr(begin, end - begin));
    }
  };
  regex.ForEachMatch(text, &scratch, [&](size_t begin, size_t end) {
    add(covered, begin);
    add(begin, end);
    covered = end;
  });
  add(covered, text.size());
  return {{"parts", std::move(parts)}};
}

int Main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  std::optional<Tokenizer> tokenizer;
  if (command == "tokenize" && argc > 2) {
    tokenizer = Tokenizer::FromDirectory(argv[2]);
  }
  for (std::string line; std::getline(std::cin, line);) {
    Json result;
    try {
      const Json document = ParseJson(line, "case");
      const JsonFields fields(document, "case");
      result = tokenizer            ? Tokenize(*tokenizer, fields)
               : command == "regex" ? MatchRegex(fields)
                                    : RenderTemplate(fields);
    } catch (const Error& error) {
      result = {{"error", error.what()}};
    }
    std::cout << result.dump() << '\n';
  }
  return 0;
}

}  // namespace
}  // namespace dualfp

int main(int argc, char** argv) {
  try {
    return dualfp::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "text_golden_tool: " << error.what() << '\n';
    return 1;
  }
}
