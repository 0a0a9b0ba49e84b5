// Conversations to prompts, as transformers' apply_chat_template makes them.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "dualfp/io/json.h"
#include "dualfp/text/chat_template.h"
#include "dualfp/text/tokenizer_config.h"

namespace dualfp {

struct ChatRequest {
  // [{"role": ..., "content": ...}, ...]. Content is a string, an array of parts
  // {"type": "text", "text": ...} or {"type": "refusal", "refusal": ...}, null or absent.
  Json messages = Json::array();
  Json tools;      // an array, or null for none
  Json documents;  // an array, or null for none
  bool add_generation_prompt = true;
  // The prompt ends with the content of the last message. Not together with
  // add_generation_prompt.
  bool continue_final_message = false;
  Json extra = Json::object();  // further variables, e.g. {"enable_thinking": false}
};

// The variables for ChatTemplate::Render(): the request, and the special tokens (bos_token,
// eos_token, ...) of the tokenizer. `extra` wins over all others.
Json ChatVariables(const ChatRequest& request, const TokenizerConfig& config);

// What apply_chat_template does to messages before the template sees them, and then some of what
// vLLM does: members that are null go, and empty tool_calls; reasoning goes by all of its names
// (reasoning_content, thinking); the arguments of tool calls are parsed where they are JSON text,
// and empty where there are none. Throws kInvalidArgument naming the member for text that is not
// JSON.
Json NormalizeMessages(const Json& messages);

// A template, and in which form it takes content. Immutable and thread-safe.
class ChatFormatter {
 public:
  // Tries out, for every role, whether the template reads lists of parts, strings or both.
  explicit ChatFormatter(ChatTemplate chat_template);

  // Content goes to the template as it is where the template reads it: parts that it would not read
  // are joined with spaces, strings that it would not read become one part. Throws kInvalidArgument
  // where the template refuses the conversation, naming the template's file (without its folder)
  // and line; kResourceExhausted as ChatTemplate::Render().
  std::string Format(const ChatRequest& request, const TokenizerConfig& config,
                     const ChatTemplateOptions& options = {}) const;

 private:
  struct Forms {
    bool list = false;
    bool string = true;
  };
  Forms TryForms(std::string_view role) const;
  void AdaptContent(Json* messages) const;

  ChatTemplate template_;
  Forms system_;
  Forms user_;
  Forms assistant_;
};

}  // namespace dualfp
