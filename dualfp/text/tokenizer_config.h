// What a model directory says about its tokenizer besides tokenizer.json: tokenizer_config.json,
// chat_template.jinja, and what these replaced (special_tokens_map.json, added_tokens.json).

#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/text/pipeline/added_tokens.h"

namespace dualfp {

// add_bos_token and add_eos_token are not among it: where there is a tokenizer.json, its
// post-processor says what stands around a text, as in transformers.
struct TokenizerConfig {
  // By role, as text.
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::optional<std::string> unk_token;
  std::optional<std::string> pad_token;

  // "added_tokens_decoder", by ascending id, and the ids there.
  struct DeclaredToken {
    int32_t id;
    AddedToken token;
  };
  std::vector<DeclaredToken> added_tokens;
  // All of them: by role, also by roles that only this model has ("image_token"), then those
  // without one (role ""). In the order in which transformers adds what tokenizer.json lacks.
  struct SpecialToken {
    std::string role;
    AddedToken token;
  };
  std::vector<SpecialToken> special_tokens;

  struct Template {
    std::string name;    // "default" for the only one
    std::string source;  // Jinja
    std::string origin;  // the file, for messages
  };
  std::vector<Template> chat_templates;

  // The template of that name; nullptr when there is none.
  const Template* FindChatTemplate(std::string_view name) const;
  // transformers' choice: "tool_use" for requests with tools where there is one, else "default".
  // nullptr when the model has no chat template.
  const Template* ChooseChatTemplate(bool has_tools) const;
};

// Reads what is there of the three files (and additional_chat_templates/*.jinja); a directory
// without any of them gives an empty configuration. Throws kInvalidFile naming file and field.
TokenizerConfig LoadTokenizerConfig(const std::filesystem::path& directory);

// From the content of a tokenizer_config.json.
TokenizerConfig ParseTokenizerConfig(std::string_view json, std::string_view origin);

}  // namespace dualfp
