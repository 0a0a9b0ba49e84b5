// Names for requests: what logs, clients and proxies tell them apart by.

#pragma once

#include <string>
#include <string_view>

namespace dualfp {

// `prefix` and 32 hexadecimal digits: unique in this process, and as good as unique among others.
std::string NewRequestId(std::string_view prefix = "");

// A client's X-Request-Id where it is one (up to 128 printable characters), else a new one.
std::string RequestIdOr(std::string_view given);

}  // namespace dualfp
