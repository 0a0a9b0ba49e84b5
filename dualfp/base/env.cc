#include "dualfp/base/env.h"

#include <charconv>
#include <cstdlib>

#include "dualfp/base/check.h"

namespace dualfp {

std::optional<std::string> GetEnv(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') {
    return std::nullopt;
  }
  return std::string(value);
}

std::optional<long> GetEnvInt(const char* name, long min, long max) {
  const std::optional<std::string> text = GetEnv(name);
  if (!text) {
    return std::nullopt;
  }
  long value = 0;
  const char* end = text->data() + text->size();
  const auto [parsed_to, status] = std::from_chars(text->data(), end, value);
  Check(status == std::errc() && parsed_to == end && value >= min && value <= max,
        ErrorCode::kInvalidArgument, name, "=", *text, ": expected an integer in [", min, ", ", max,
        "]");
  return value;
}

}  // namespace dualfp
