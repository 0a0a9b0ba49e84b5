// Checks that throw. Check() guards a caller's input at an API edge; CheckInternal() guards our
// own invariants. Build the message only when the check fails: the parts are concatenated lazily.

#pragma once

#include <sstream>
#include <string>

#include "dualfp/base/error.h"

namespace dualfp {

// Concatenates anything that can be streamed.
template <typename... Parts>
std::string StrCat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

template <typename... Parts>
[[noreturn]] void Fail(ErrorCode code, const Parts&... parts) {
  throw Error(code, StrCat(parts...));
}

template <typename... Parts>
void Check(bool condition, ErrorCode code, const Parts&... parts) {
  if (!condition) [[unlikely]] {
    Fail(code, parts...);
  }
}

template <typename... Parts>
void CheckInternal(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]] {
    Fail(ErrorCode::kInternal, "internal error: ", parts...);
  }
}

}  // namespace dualfp
