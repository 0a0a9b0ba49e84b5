// One line for each answered request, key=value, as log collectors read it.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "dualfp/server/http/http_types.h"

namespace dualfp {

struct AccessRecord {
  std::string client;  // address and port
  std::string method;
  std::string path;
  std::string request_id;
  int status = 0;  // 0: the client left before an answer
  uint64_t response_bytes = 0;
  double seconds = 0.0;
  bool client_left = false;  // before the answer was complete
  std::optional<GenerationSummary> generation;
};

// `text` as a line of a log can have it: control and format characters (line ends, terminals'
// escapes, what turns the direction of writing) become \u0085, what is not UTF-8 becomes U+FFFD.
std::string EscapeForLog(std::string_view text);

// client=127.0.0.1:4242 method=POST path=/v1/completions status=200 bytes=512 ms=31.2 ...
// Whatever a client wrote is quoted and escaped where it is not plain.
std::string FormatAccessRecord(const AccessRecord& record);

}  // namespace dualfp
