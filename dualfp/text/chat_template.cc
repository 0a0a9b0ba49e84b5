#include "dualfp/text/chat_template.h"

#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/evaluator.h"
#include "dualfp/text/jinja/parser.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

constexpr size_t kMaxMessage = 2000;

// Templates put anything into messages, their own names and the conversation: errors stay short
// and on one line.
[[noreturn]] void Rethrow(const Error& error) {
  std::string message;
  for (const char c : std::string_view(error.what()).substr(0, kMaxMessage)) {
    if (c == '\n') {
      message += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      message += ' ';
    } else {
      message += c;
    }
  }
  throw Error(error.code(), ReplaceInvalidUtf8(message));
}

}  // namespace

struct ChatTemplate::Impl {
  std::string name;  // the origin without its folder
  jinja::Block block;
};

ChatTemplate::ChatTemplate(std::string_view source, std::string_view origin) {
  Check(IsValidUtf8(source), ErrorCode::kInvalidFile, origin, ": expected UTF-8");
  try {
    impl_ = std::make_unique<const Impl>(
        Impl{std::string(origin.substr(origin.rfind('/') + 1)), jinja::Parse(source, origin)});
  } catch (const Error& error) {
    Rethrow(error);
  }
}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::Render(const Json& variables, const ChatTemplateOptions& options) const {
  Check(variables.is_object(), ErrorCode::kInvalidArgument, impl_->name,
        ": the variables of a chat template must be a JSON object");
  jinja::Heap::Limits limits;
  limits.max_bytes = options.max_bytes;
  limits.max_steps = options.max_steps;
  jinja::Evaluator evaluator(limits, options.now.value_or(std::time(nullptr)));
  try {
    return evaluator.Render(impl_->block, variables, impl_->name);
  } catch (const Error& error) {
    Rethrow(error);
  }
}

}  // namespace dualfp
