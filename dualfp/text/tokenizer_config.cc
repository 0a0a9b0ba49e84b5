#include "dualfp/text/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <system_error>

#include "dualfp/base/check.h"
#include "dualfp/io/file.h"
#include "dualfp/io/json.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxTemplateBytes = int64_t{4} << 20;
constexpr std::string_view kDefaultTemplate = "default";

// A token is written as a string or as an object with its text in "content".
std::optional<std::string> FindTokenText(const JsonFields& fields, std::string_view key) {
  const Json* value = fields.FindRaw(key);
  if (value != nullptr && value->is_object()) {
    return fields.GetObject(key).GetString("content");
  }
  return fields.FindString(key);
}

void ReadSpecialTokens(const JsonFields& fields, TokenizerConfig* config) {
  const auto read = [&](std::string_view key, std::optional<std::string>* token) {
    if (!token->has_value()) {
      *token = FindTokenText(fields, key);
    }
  };
  read("bos_token", &config->bos_token);
  read("eos_token", &config->eos_token);
  read("unk_token", &config->unk_token);
  read("pad_token", &config->pad_token);
}

// {"32000": {"content": "<|im_end|>", ...}, ...}
void ReadAddedTokens(const JsonFields& fields, TokenizerConfig* config) {
  const std::optional<JsonFields> tokens = fields.FindObject("added_tokens_decoder");
  if (!tokens) {
    return;
  }
  for (const auto& [key, value] : tokens->json().get_ref<const Json::object_t&>()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0) {
      tokens->FailField(key, "expected a token id as the key");
    }
    const JsonFields entry(value, fields.origin(), "added_tokens_decoder." + key);
    AddedToken token;
    token.content = entry.GetString("content");
    token.single_word = entry.FindBool("single_word").value_or(false);
    token.lstrip = entry.FindBool("lstrip").value_or(false);
    token.rstrip = entry.FindBool("rstrip").value_or(false);
    token.special = entry.FindBool("special").value_or(false);
    token.normalized = entry.FindBool("normalized").value_or(!token.special);
    config->added_tokens.push_back({id, std::move(token)});
  }
  std::stable_sort(config->added_tokens.begin(), config->added_tokens.end(),
                   [](const auto& a, const auto& b) { return a.id < b.id; });
}

void SetChatTemplate(TokenizerConfig* config, TokenizerConfig::Template added) {
  for (TokenizerConfig::Template& known : config->chat_templates) {
    if (known.name == added.name) {
      known = std::move(added);
      return;
    }
  }
  config->chat_templates.push_back(std::move(added));
}

// A string, or a list of {"name": ..., "template": ...}.
void ReadChatTemplates(const JsonFields& fields, TokenizerConfig* config) {
  const Json* value = fields.FindRaw("chat_template");
  const std::string origin = StrCat(fields.origin(), ": field chat_template");
  if (value == nullptr || value->is_null()) {
    return;
  }
  if (value->is_array()) {
    for (const JsonFields& entry : fields.GetObjects("chat_template")) {
      SetChatTemplate(config, {entry.GetString("name"), entry.GetString("template"), origin});
    }
  } else {
    SetChatTemplate(config,
                    {std::string(kDefaultTemplate), fields.GetString("chat_template"), origin});
  }
}

void ReadTemplateFile(const std::filesystem::path& path, std::string name,
                      TokenizerConfig* config) {
  SetChatTemplate(config, {std::move(name), ReadFile(path, kMaxTemplateBytes), path.string()});
}

// A directory entry that cannot be looked at counts as absent; reading it says why.
bool Exists(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

void ReadConfig(const JsonFields& fields, TokenizerConfig* config) {
  ReadSpecialTokens(fields, config);
  ReadAddedTokens(fields, config);
  ReadChatTemplates(fields, config);
}

}  // namespace

const TokenizerConfig::Template* TokenizerConfig::FindChatTemplate(std::string_view name) const {
  for (const Template& candidate : chat_templates) {
    if (candidate.name == name) {
      return &candidate;
    }
  }
  return nullptr;
}

const TokenizerConfig::Template* TokenizerConfig::ChooseChatTemplate(bool has_tools) const {
  const Template* tool_use = has_tools ? FindChatTemplate("tool_use") : nullptr;
  return tool_use != nullptr ? tool_use : FindChatTemplate(kDefaultTemplate);
}

TokenizerConfig ParseTokenizerConfig(std::string_view json, std::string_view origin) {
  TokenizerConfig config;
  const Json document = ParseJson(json, origin);
  ReadConfig(JsonFields(document, origin), &config);
  return config;
}

TokenizerConfig LoadTokenizerConfig(const std::filesystem::path& directory) {
  TokenizerConfig config;
  const std::filesystem::path main = directory / "tokenizer_config.json";
  if (Exists(main)) {
    const Json document = ParseJsonFile(main);
    ReadConfig(JsonFields(document, main.string()), &config);
  }
  const std::filesystem::path special = directory / "special_tokens_map.json";
  if (Exists(special)) {
    const Json document = ParseJsonFile(special);
    ReadSpecialTokens(JsonFields(document, special.string()), &config);
  }
  // Template files win over tokenizer_config.json.
  const std::filesystem::path jinja = directory / "chat_template.jinja";
  if (Exists(jinja)) {
    ReadTemplateFile(jinja, std::string(kDefaultTemplate), &config);
  }
  const std::filesystem::path additional = directory / "additional_chat_templates";
  std::error_code error;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(additional, error)) {
    if (entry.path().extension() == ".jinja") {
      paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  for (const std::filesystem::path& path : paths) {
    ReadTemplateFile(path, path.stem().string(), &config);
  }
  return config;
}

}  // namespace dualfp
