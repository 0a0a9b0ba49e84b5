// Text to tokens and back, and conversations to text.

#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/io/json.h"

namespace dualfp {

// One conversation for the chat template.
struct ChatPrompt {
  Json messages;  // array; content as ChatRequest (text/chat_formatter.h) takes it
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  Json template_arguments;  // object or null: more variables for the template
};

// Immutable and thread-safe.
class TextCodec {
 public:
  virtual ~TextCodec() = default;

  // `max_tokens`: drops text at the beginning so that no more remain, special tokens included.
  virtual std::vector<int32_t> Encode(std::string_view text, bool add_special_tokens,
                                      std::optional<int64_t> max_tokens = {}) const = 0;
  virtual std::string Decode(std::span<const int32_t> tokens, bool skip_special_tokens) const = 0;

  // The token's own bytes, possibly half a character.
  virtual std::string TokenBytes(int32_t token) const = 0;
  // Whether Decode() can leave it out.
  virtual bool IsSpecial(int32_t token) const = 0;

  // Throws kUnsupported where the model has no chat template, kInvalidArgument where the template
  // refuses the conversation.
  virtual std::string RenderChat(const ChatPrompt& prompt) const = 0;
};

}  // namespace dualfp
