#include "dualfp/io/name_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"

namespace dualfp {
namespace {

constexpr std::string_view kRegexPrefix = "re:";
constexpr std::string_view kWildcards = "*?[";
constexpr uint32_t kMatchLimit = 1'000'000;
constexpr uint32_t kParensNestLimit = 100;

// The wildcard pattern as a regular expression for a whole name. A "[" without "]" is itself.
std::string TranslateWildcards(std::string_view pattern) {
  std::string regex;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const size_t first = i + 1 < pattern.size() && pattern[i + 1] == '!' ? i + 2 : i + 1;
    const size_t close = c == '[' ? pattern.find(']', first + 1) : std::string_view::npos;
    if (c == '*') {
      regex += ".*";
    } else if (c == '?') {
      regex += '.';
    } else if (close != std::string_view::npos) {
      regex += first == i + 2 ? "[^" : "[";
      for (const char member : pattern.substr(first, close - first)) {
        if (member == '\\' || member == '[' || member == '^' || member == ']') {
          regex += '\\';
        }
        regex += member;
      }
      regex += ']';
      i = close;
    } else {
      if (std::string_view("\\^$.|()[]{}+#-").find(c) != std::string_view::npos) {
        regex += '\\';
      }
      regex += c;
    }
  }
  return regex + "\\z";
}

}  // namespace

struct NamePattern::Regex {
  pcre2_code* code = nullptr;
  pcre2_match_data* match_data = nullptr;
  pcre2_match_context* context = nullptr;

  Regex() = default;
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;
  ~Regex() {
    pcre2_match_context_free(context);
    pcre2_match_data_free(match_data);
    pcre2_code_free(code);
  }
};

NamePattern::NamePattern(std::string_view pattern, std::string_view origin)
    : text_(pattern), origin_(origin) {
  Check(!pattern.empty(), ErrorCode::kInvalidFile, origin, ": an empty name pattern");
  std::string expression;
  if (pattern.starts_with(kRegexPrefix)) {
    expression = pattern.substr(kRegexPrefix.size());
  } else if (pattern.find_first_of(kWildcards) != std::string_view::npos) {
    expression = TranslateWildcards(pattern);
  } else {
    return;
  }
  auto regex = std::make_unique<Regex>();
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  Check(context != nullptr, ErrorCode::kResourceExhausted, "no memory to compile a pattern");
  pcre2_set_parens_nest_limit(context, kParensNestLimit);
  int error = 0;
  PCRE2_SIZE offset = 0;
  regex->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                              PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C | PCRE2_DOTALL, &error,
                              &offset, context);
  pcre2_compile_context_free(context);
  if (regex->code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    Fail(ErrorCode::kInvalidFile, origin, ": cannot compile the name pattern ",
         QuoteForMessage(pattern), ": ", reinterpret_cast<const char*>(message));
  }
  regex->match_data = pcre2_match_data_create(1, nullptr);
  regex->context = pcre2_match_context_create(nullptr);
  Check(regex->match_data != nullptr && regex->context != nullptr, ErrorCode::kResourceExhausted,
        "no memory to match a pattern");
  pcre2_set_match_limit(regex->context, kMatchLimit);
  regex_ = std::move(regex);
}

NamePattern::~NamePattern() = default;
NamePattern::NamePattern(NamePattern&&) noexcept = default;
NamePattern& NamePattern::operator=(NamePattern&&) noexcept = default;

bool NamePattern::Matches(std::string_view name) const {
  if (is_name()) {
    return name == text_;
  }
  const int count = pcre2_match(regex_->code, reinterpret_cast<PCRE2_SPTR>(name.data()),
                                name.size(), 0, 0, regex_->match_data, regex_->context);
  Check(count >= 0 || count == PCRE2_ERROR_NOMATCH, ErrorCode::kInvalidFile, origin_,
        ": the name pattern ", QuoteForMessage(text_), " takes too long to match ",
        QuoteForMessage(name));
  return count >= 0;
}

std::vector<NamePattern> ParseNamePatterns(std::span<const std::string> patterns,
                                           std::string_view origin) {
  std::vector<NamePattern> parsed;
  parsed.reserve(patterns.size());
  for (const std::string& pattern : patterns) {
    parsed.emplace_back(pattern, origin);
  }
  return parsed;
}

bool MatchesAny(std::span<const NamePattern> patterns, std::string_view name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [name](const NamePattern& pattern) { return pattern.Matches(name); });
}

}  // namespace dualfp
