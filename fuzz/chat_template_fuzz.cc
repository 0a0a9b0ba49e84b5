// A chat template, and its variables as JSON after a NUL byte. Rendering ends, within its bounds,
// with valid UTF-8 or an error.

#include <string>

#include "dualfp/io/json.h"
#include "dualfp/text/chat_template.h"
#include "dualfp/text/unicode.h"
#include "fuzz/fuzz.h"

using dualfp::fuzz::Require;

namespace {

constexpr std::string_view kDefaultVariables =
    R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"},
                     {"role": "assistant", "content": null, "tool_calls": [{"function":
                       {"name": "f", "arguments": {"a": [1, 2.5, "x", true]}}}]}],
        "tools": [{"function": {"name": "f"}}], "bos_token": "<s>",
        "add_generation_prompt": true})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input = dualfp::fuzz::AsText(data, size);
  const size_t separator = input.find('\0');
  const std::string_view json =
      separator == std::string_view::npos ? kDefaultVariables : input.substr(separator + 1);
  dualfp::ChatTemplateOptions options;
  options.max_steps = 100'000;
  options.max_bytes = 16 << 20;
  options.now = 1'700'000'000;
  try {
    const dualfp::ChatTemplate chat_template(input.substr(0, separator), "template");
    const dualfp::Json variables = dualfp::ParseJson(json, "variables");
    Require(dualfp::IsValidUtf8(chat_template.Render(variables, options)), "valid UTF-8");
  } catch (const dualfp::Error& error) {
    Require(error.code() != dualfp::ErrorCode::kInternal, "no internal error");
    Require(std::string_view(error.what()).find('\n') == std::string_view::npos,
            "a message of one line");
    Require(dualfp::IsValidUtf8(error.what()), "a message of valid UTF-8");
  }
  return 0;
}
