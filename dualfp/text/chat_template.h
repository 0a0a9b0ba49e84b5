// Chat templates: the Jinja programs with which a model's publisher turns a conversation into a
// prompt.
//
// The language is the part of Jinja2 that published templates use, with transformers' environment:
// trim_blocks and lstrip_blocks, loop controls, generation blocks, raise_exception, strftime_now,
// namespace, and a tojson that does not escape HTML. What is not supported (loading other
// templates, escaping of all output, some rare filters) is an error that names it.

#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "dualfp/io/json.h"

namespace dualfp {

struct ChatTemplateOptions {
  // Bounds on what one rendering may compute and hold: about a second, and this much memory.
  int64_t max_steps = 20'000'000;
  int64_t max_bytes = int64_t{256} << 20;
  // What strftime_now() tells, in local time; the present when absent.
  std::optional<std::time_t> now;
};

// Immutable; may be rendered by many threads at a time.
class ChatTemplate {
 public:
  // Throws kInvalidFile (kUnsupported for a tag that is not supported) naming `origin` and the
  // line.
  ChatTemplate(std::string_view source, std::string_view origin);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // `variables` is an object; its members are the template's variables. Throws kInvalidArgument
  // with the template's own message where it calls raise_exception, and for whatever else goes
  // wrong in it; kResourceExhausted when a bound is reached. Messages name line and origin, the
  // latter without its folder: they go to whoever sent the conversation.
  std::string Render(const Json& variables, const ChatTemplateOptions& options = {}) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace dualfp
