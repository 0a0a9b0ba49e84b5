// Environment variables, read once at the point of use. All of ours start with DUALFP_.

#pragma once

#include <optional>
#include <string>

namespace dualfp {

// The variable's value, or nothing when it is unset or empty.
std::optional<std::string> GetEnv(const char* name);

// Throws kInvalidArgument, naming the variable, when it is set to anything but a decimal integer
// in [min, max].
std::optional<long> GetEnvInt(const char* name, long min, long max);

}  // namespace dualfp
