#include "dualfp/text/tokenizer_config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

#include "dualfp/base/check.h"
#include "dualfp/io/file.h"
#include "dualfp/io/json.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxTemplateBytes = int64_t{4} << 20;
constexpr std::string_view kDefaultTemplate = "default";
constexpr std::string_view kWithoutRole = "additional_special_tokens";

constexpr std::array<std::string_view, 7> kRoles = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

AddedToken ReadAddedToken(const JsonFields& entry, bool special) {
  AddedToken token;
  token.content = entry.GetString("content");
  token.single_word = entry.FindBool("single_word").value_or(false);
  token.lstrip = entry.FindBool("lstrip").value_or(false);
  token.rstrip = entry.FindBool("rstrip").value_or(false);
  token.normalized = entry.FindBool("normalized").value_or(!special);
  token.special = special;
  return token;
}

// A special token is written as a string or as an object with its text in "content".
AddedToken ReadSpecialToken(const Json& value, const JsonFields& fields, const std::string& path) {
  if (value.is_string()) {
    AddedToken token;
    token.content = value.get<std::string>();
    token.normalized = false;
    token.special = true;
    return token;
  }
  if (!value.is_object()) {
    fields.FailExpected(path, "a string or an object with \"content\"");
  }
  const JsonFields entry(value, fields.origin(), path);
  AddedToken token = ReadAddedToken(entry, entry.FindBool("special").value_or(false));
  token.special = true;
  return token;
}

// By role; a list stands for tokens without one. A later file's role takes the place of an
// earlier one's.
using SpecialTokens = std::vector<std::pair<std::string, std::vector<AddedToken>>>;

std::vector<AddedToken>& TokensOf(SpecialTokens* tokens, std::string_view role) {
  for (auto& [name, held] : *tokens) {
    if (name == role) {
      return held;
    }
  }
  return tokens->emplace_back(role, std::vector<AddedToken>()).second;
}

void ReadSpecialTokens(const JsonFields& fields, SpecialTokens* tokens) {
  constexpr std::string_view kEnd = "_token";
  for (const auto& [key, value] : fields.json().get_ref<const Json::object_t&>()) {
    const bool is_list = key == kWithoutRole || key == "extra_special_tokens";
    if (is_list && value.is_array()) {
      std::vector<AddedToken>& held = TokensOf(tokens, kWithoutRole);
      held.clear();
      for (const Json& token : value) {
        held.push_back(ReadSpecialToken(token, fields, StrCat(key, "[", held.size(), "]")));
      }
    } else if (is_list && value.is_object()) {
      for (const auto& [role, token] : value.get_ref<const Json::object_t&>()) {
        TokensOf(tokens, role) = {ReadSpecialToken(token, fields, StrCat(key, ".", role))};
      }
    } else if (key.ends_with(kEnd) &&
               (value.is_string() || (value.is_object() && value.contains("content")))) {
      TokensOf(tokens, key) = {ReadSpecialToken(value, fields, key)};
    } else if (std::find(kRoles.begin(), kRoles.end(), key) != kRoles.end()) {
      if (!value.is_null()) {
        ReadSpecialToken(value, fields, key);  // throws
      }
      TokensOf(tokens, key).clear();
    }
  }
}

void SetSpecialTokens(SpecialTokens tokens, TokenizerConfig* config) {
  const auto set = [&](std::string_view role, std::optional<std::string>* text) {
    const std::vector<AddedToken>& held = TokensOf(&tokens, role);
    *text = held.empty() ? std::nullopt : std::optional(held.front().content);
  };
  set("bos_token", &config->bos_token);
  set("eos_token", &config->eos_token);
  set("unk_token", &config->unk_token);
  set("pad_token", &config->pad_token);
  // The roles that every model may have, then this model's own, then the others.
  const auto place = [](const std::string& role) {
    return role == kWithoutRole ? kRoles.end() - kRoles.begin() + 1
                                : std::find(kRoles.begin(), kRoles.end(), role) - kRoles.begin();
  };
  std::stable_sort(tokens.begin(), tokens.end(),
                   [&](const auto& a, const auto& b) { return place(a.first) < place(b.first); });
  for (auto& [role, held] : tokens) {
    for (AddedToken& token : held) {
      config->special_tokens.push_back({role == kWithoutRole ? "" : role, std::move(token)});
    }
  }
}

void SortById(std::vector<TokenizerConfig::DeclaredToken>* tokens) {
  std::stable_sort(tokens->begin(), tokens->end(),
                   [](const auto& a, const auto& b) { return a.id < b.id; });
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
    AddedToken token = ReadAddedToken(entry, entry.FindBool("special").value_or(false));
    config->added_tokens.push_back({id, std::move(token)});
  }
  SortById(&config->added_tokens);
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

// {"<|im_end|>": 32000, ...}
void ReadAddedTokensFile(const std::filesystem::path& path, const SpecialTokens& special,
                         TokenizerConfig* config) {
  const Json document = ParseJsonFile(path);
  const JsonFields fields(document, path.string());
  for (const auto& [content, id] : document.get_ref<const Json::object_t&>()) {
    AddedToken token;
    token.content = content;
    for (const auto& [role, held] : special) {
      token.special = token.special || std::any_of(held.begin(), held.end(), [&](const auto& each) {
                        return each.content == token.content;
                      });
    }
    token.normalized = !token.special;
    config->added_tokens.push_back(
        {static_cast<int32_t>(fields.GetInt(content, 0, INT32_MAX)), std::move(token)});
  }
  SortById(&config->added_tokens);
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
  const JsonFields fields(document, origin);
  SpecialTokens special;
  ReadSpecialTokens(fields, &special);
  SetSpecialTokens(std::move(special), &config);
  ReadAddedTokens(fields, &config);
  ReadChatTemplates(fields, &config);
  return config;
}

TokenizerConfig LoadTokenizerConfig(const std::filesystem::path& directory) {
  TokenizerConfig config;
  SpecialTokens special;
  bool lists_added_tokens = false;
  const std::filesystem::path main = directory / "tokenizer_config.json";
  if (Exists(main)) {
    const Json document = ParseJsonFile(main);
    const JsonFields fields(document, main.string());
    lists_added_tokens = fields.Has("added_tokens_decoder");
    ReadSpecialTokens(fields, &special);
    ReadAddedTokens(fields, &config);
    ReadChatTemplates(fields, &config);
  }
  // Files that count, and win, where tokenizer_config.json is of the kind from before it listed the
  // added tokens itself.
  if (!lists_added_tokens) {
    const std::filesystem::path map = directory / "special_tokens_map.json";
    if (Exists(map)) {
      const Json document = ParseJsonFile(map);
      ReadSpecialTokens(JsonFields(document, map.string()), &special);
    }
    const std::filesystem::path added = directory / "added_tokens.json";
    if (Exists(added)) {
      ReadAddedTokensFile(added, special, &config);
    }
  }
  SetSpecialTokens(std::move(special), &config);
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
