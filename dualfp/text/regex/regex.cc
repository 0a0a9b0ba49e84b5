#include "dualfp/text/regex/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

// Far above what the published patterns need for any text, far below a hang.
constexpr uint32_t kMatchLimit = 20'000'000;
constexpr size_t kJitStackStart = size_t{32} << 10;
constexpr uint32_t kHeapLimitKib = uint32_t{512} << 10;
constexpr size_t kJitStackMax = size_t{16} << 20;

}  // namespace

struct RegexScratch::State {
  pcre2_match_data* match_data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* jit_stack = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);

  State() {
    Check(match_data != nullptr && context != nullptr && jit_stack != nullptr,
          ErrorCode::kResourceExhausted, "no memory for matching regular expressions");
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    pcre2_jit_stack_assign(context, nullptr, jit_stack);
  }
  ~State() {
    pcre2_match_data_free(match_data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(jit_stack);
  }
};

RegexScratch::RegexScratch() : state_(std::make_unique<State>()) {}
RegexScratch::~RegexScratch() = default;
RegexScratch::RegexScratch(RegexScratch&&) noexcept = default;
RegexScratch& RegexScratch::operator=(RegexScratch&&) noexcept = default;

struct Regex::Code {
  pcre2_code* code = nullptr;
  bool jit = false;
  std::string pattern;

  ~Code() { pcre2_code_free(code); }
};

Regex::Regex(std::string_view pattern, std::string_view origin) {
  auto code = std::make_unique<Code>();
  code->pattern = pattern;
  const std::string translated = TranslateRegex(pattern, origin);
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  Check(context != nullptr, ErrorCode::kResourceExhausted, "no memory to compile a pattern");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context, 100);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                             &error, &offset, context);
  pcre2_compile_context_free(context);
  if (code->code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    Fail(ErrorCode::kInvalidFile, origin, ": cannot compile the regular expression ",
         QuoteForMessage(pattern), ": ", reinterpret_cast<const char*>(message));
  }
  code->jit = pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE) == 0;
  code_ = std::move(code);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

bool Regex::Find(std::string_view text, size_t start, RegexScratch* scratch, Match* match) const {
  RegexScratch::State& state = *scratch->state_;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data() != nullptr ? text.data() : "");
  int result = PCRE2_ERROR_JIT_STACKLIMIT;
  if (code_->jit) {
    result = pcre2_jit_match(code_->code, subject, text.size(), start, 0, state.match_data,
                             state.context);
  }
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
    // The interpreter is slower, but its stack may grow further.
    result = pcre2_match(code_->code, subject, text.size(), start,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, state.match_data, state.context);
  }
  if (result == PCRE2_ERROR_NOMATCH) {
    return false;
  }
  if (result < 0) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(result, message, sizeof(message));
    Fail(ErrorCode::kResourceExhausted, "the regular expression ", QuoteForMessage(code_->pattern),
         " failed on a text of ", text.size(), " bytes: ", reinterpret_cast<const char*>(message));
  }
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(state.match_data);
  // \K in a lookahead can put the start after the end.
  *match = {std::min(bounds[0], bounds[1]), bounds[1]};
  return true;
}

size_t Regex::NextCodePoint(std::string_view text, size_t position) {
  return position < text.size() ? position + static_cast<size_t>(Utf8Length(text[position]))
                                : position + 1;
}

}  // namespace dualfp
