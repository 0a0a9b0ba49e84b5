// What the fuzz targets share. A target defines LLVMFuzzerTestOneInput, feeds the bytes to a reader
// of untrusted input, and lets only dualfp::Error pass; anything else ends the process.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "dualfp/base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace dualfp::fuzz {

inline std::string_view AsText(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Ends the process when a promise does not hold, so that the fuzzer keeps the input.
inline void Require(bool condition, const char* promise) {
  if (!condition) {
    std::fprintf(stderr, "broken promise: %s\n", promise);
    std::abort();
  }
}

// Runs a reader; its errors must blame the input, in one short printable line.
template <typename Call>
void ExpectOnlyInputErrors(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    Require(error.code() == ErrorCode::kInvalidFile || error.code() == ErrorCode::kUnsupported ||
                error.code() == ErrorCode::kNotFound,
            "an error that blames the input");
    const std::string_view message = error.what();
    Require(message.size() < 2000, "a short message");
    for (const char c : message) {
      Require(c >= 0x20 && c < 0x7f, "a message of one printable line");
    }
  }
}

}  // namespace dualfp::fuzz
