// What embed.cmake compiles in: text, not code.

#pragma once

#include <string_view>

namespace dualfp::sm90::embedded {

extern const std::string_view kTunedTable;         // tuned_h200.txt
extern const std::string_view kKernelFingerprint;  // of the kernels' sources

}  // namespace dualfp::sm90::embedded
