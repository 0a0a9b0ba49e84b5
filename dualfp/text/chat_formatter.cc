#include "dualfp/text/chat_formatter.h"

#include <algorithm>
#include <array>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/strings.h"

namespace dualfp {
namespace {

// By which names a message's reasoning goes; templates read the first or the second.
constexpr std::array<const char*, 3> kReasoningNames = {"reasoning_content", "thinking",
                                                        "reasoning"};

// Marks where the last message's content ends. The space shows whether the template strips it.
constexpr std::string_view kEndMark = "CONTINUE_FINAL_MESSAGE_TAG ";

constexpr int64_t kTrialSteps = 200'000;

void NameReasoning(Json* message) {
  for (const char* name : kReasoningNames) {
    const auto found = message->find(name);
    if (found != message->end()) {
      const Json reasoning = *found;
      if (!message->contains("thinking")) {
        (*message)["thinking"] = reasoning;
      }
      (*message)["reasoning_content"] = reasoning;
      return;
    }
  }
}

// OpenAI's wire form of a call's arguments is JSON text; templates expect what it says.
void ParseArguments(const std::string& path, Json* call) {
  if (!call->is_object() || !call->contains("function") || !(*call)["function"].is_object()) {
    return;
  }
  Json& arguments = (*call)["function"]["arguments"];
  if (!arguments.is_string() && !arguments.is_null()) {
    return;
  }
  const std::string text = arguments.is_string() ? arguments.get<std::string>() : "";
  if (jinja::StripWhitespace(text, jinja::Side::kBoth).empty()) {
    arguments = Json::object();
    return;
  }
  try {
    arguments = ParseJson(text, StrCat(path, ".function.arguments"));
  } catch (const Error& error) {
    throw Error(ErrorCode::kInvalidArgument, error.what());
  }
}

// The text of a part, or nothing.
std::string_view TextOf(const Json& part) {
  if (part.is_string()) {
    return part.get_ref<const std::string&>();
  }
  for (const char* name : {"text", "refusal"}) {
    const auto found = part.is_object() ? part.find(name) : part.end();
    if (part.is_object() && found != part.end() && found->is_string()) {
      return found->get_ref<const std::string&>();
    }
  }
  return {};
}

std::string JoinParts(const Json& parts) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    text += i > 0 ? " " : "";
    text += TextOf(parts[i]);
  }
  return text;
}

Json TextPart(std::string_view text) { return {{"type", "text"}, {"text", text}}; }

// Puts the mark behind the last text of the conversation; returns that text.
std::string MarkEnd(Json* messages) {
  const auto content = messages->back().find("content");
  if (content != messages->back().end() && content->is_string()) {
    std::string text = content->get<std::string>();
    *content = StrCat(text, kEndMark);
    return text;
  }
  if (content != messages->back().end() && content->is_array()) {
    for (auto part = content->rbegin(); part != content->rend(); ++part) {
      const auto found = part->is_object() ? part->find("text") : part->end();
      if (part->is_object() && found != part->end() && found->is_string()) {
        std::string text = found->get<std::string>();
        *found = StrCat(text, kEndMark);
        return text;
      }
    }
  }
  Fail(ErrorCode::kInvalidArgument,
       "continue_final_message: the last message has no text to continue");
}

// Cuts the prompt where the content of the last message ends.
void CutAtEnd(std::string_view text, std::string* prompt) {
  const std::string_view bare_mark = jinja::StripWhitespace(kEndMark, jinja::Side::kBoth);
  const size_t at = prompt->rfind(bare_mark);
  Check(at != std::string::npos &&
            prompt->find(jinja::StripWhitespace(text, jinja::Side::kBoth)) != std::string::npos,
        ErrorCode::kInvalidArgument,
        "continue_final_message: the chat template changes the last message's content");
  const bool keeps_space = prompt->compare(at, kEndMark.size(), kEndMark) == 0;
  prompt->resize(at);
  if (!keeps_space) {
    prompt->resize(jinja::StripWhitespace(*prompt, jinja::Side::kRight).size());
  }
}

}  // namespace

Json ChatVariables(const ChatRequest& request, const TokenizerConfig& config) {
  Json variables = Json::object();
  for (const auto& [role, token] : config.special_tokens) {
    if (!role.empty()) {
      variables[role] = token.content;
    }
  }
  const auto add_token = [&](const char* name, const std::optional<std::string>& token) {
    if (token) {
      variables[name] = *token;
    }
  };
  add_token("bos_token", config.bos_token);
  add_token("eos_token", config.eos_token);
  add_token("unk_token", config.unk_token);
  add_token("pad_token", config.pad_token);
  variables["messages"] = request.messages;
  variables["tools"] = request.tools;
  variables["documents"] = request.documents;
  variables["add_generation_prompt"] = request.add_generation_prompt;
  for (const auto& [name, value] : request.extra.items()) {
    variables[name] = value;
  }
  return variables;
}

Json NormalizeMessages(const Json& messages) {
  Json normalized = Json::array();
  for (const Json& message : messages) {
    Check(message.is_object(), ErrorCode::kInvalidArgument, "messages[", normalized.size(),
          "]: expected an object");
    Json kept = Json::object();
    for (const auto& [name, value] : message.items()) {
      if (!value.is_null()) {
        kept[name] = value;
      }
    }
    NameReasoning(&kept);
    const auto calls = kept.find("tool_calls");
    if (calls != kept.end() && calls->is_array() && calls->empty()) {
      kept.erase(calls);
    } else if (calls != kept.end() && calls->is_array()) {
      for (size_t i = 0; i < calls->size(); ++i) {
        ParseArguments(StrCat("messages[", normalized.size(), "].tool_calls[", i, "]"),
                       &(*calls)[i]);
      }
    }
    normalized.push_back(std::move(kept));
  }
  return normalized;
}

ChatFormatter::ChatFormatter(ChatTemplate chat_template)
    : template_(std::move(chat_template)),
      system_(TryForms("system")),
      user_(TryForms("user")),
      assistant_(TryForms("assistant")) {}

// Which forms of content come out of the template as their text, and not as Python's notation of
// a list.
ChatFormatter::Forms ChatFormatter::TryForms(std::string_view role) const {
  constexpr std::string_view kText = "dualfp-trial-text";
  const auto reads = [&](const Json& content) {
    const Json own = {{"role", role}, {"content", content}};
    const Json user = {{"role", "user"}, {"content", "x"}};
    ChatRequest request;
    if (role == "user") {
      request.messages = Json::array({own});
    } else if (role == "system") {
      request.messages = Json::array({own, user});
    } else {
      request.messages = Json::array({user, own, user});
    }
    ChatTemplateOptions options;
    options.max_steps = kTrialSteps;
    try {
      const std::string text = template_.Render(ChatVariables(request, {}), options);
      return text.find(kText) != std::string::npos &&
             text.find(StrCat("'", kText)) == std::string::npos;
    } catch (const Error&) {
      return false;
    }
  };
  Forms forms;
  forms.list = reads(Json::array({TextPart(kText)}));
  forms.string = reads(kText) || !forms.list;
  return forms;
}

void ChatFormatter::AdaptContent(Json* messages) const {
  for (Json& message : *messages) {
    const auto content = message.find("content");
    if (content == message.end()) {
      continue;
    }
    const auto role = message.find("role");
    const Forms& forms = role != message.end() && *role == "system"      ? system_
                         : role != message.end() && *role == "assistant" ? assistant_
                                                                         : user_;
    if (content->is_array() && !forms.list) {
      *content = JoinParts(*content);
    } else if (content->is_string() && !forms.string) {
      *content = Json::array({TextPart(content->get<std::string>())});
    }
  }
}

std::string ChatFormatter::Format(const ChatRequest& request, const TokenizerConfig& config,
                                  const ChatTemplateOptions& options) const {
  ChatRequest adapted = request;
  adapted.messages = NormalizeMessages(request.messages);
  AdaptContent(&adapted.messages);
  if (!request.continue_final_message) {
    return template_.Render(ChatVariables(adapted, config), options);
  }
  Check(!request.add_generation_prompt, ErrorCode::kInvalidArgument,
        "continue_final_message: not allowed together with add_generation_prompt");
  Check(!adapted.messages.empty(), ErrorCode::kInvalidArgument,
        "continue_final_message: there is no message to continue");
  const std::string last_text = MarkEnd(&adapted.messages);
  std::string prompt = template_.Render(ChatVariables(adapted, config), options);
  CutAtEnd(last_text, &prompt);
  return prompt;
}

}  // namespace dualfp
