// The library's only way to say something that is not an error: a line at a level, handed to a
// sink. The core writes neither to stdout nor to a logger of its own choice; an application
// installs a sink (apps/ and server/ install spdlog's). Without one, warnings go to stderr.

#pragma once

#include <string_view>

namespace dualfp {

enum class LogLevel { kDebug, kInfo, kWarning };

using LogSink = void (*)(LogLevel level, std::string_view line);

// Replaces the sink for the whole process; nullptr restores the default. Thread-safe.
void SetLogSink(LogSink sink);

void Log(LogLevel level, std::string_view line);

inline void LogDebug(std::string_view line) { Log(LogLevel::kDebug, line); }
inline void LogInfo(std::string_view line) { Log(LogLevel::kInfo, line); }
inline void LogWarning(std::string_view line) { Log(LogLevel::kWarning, line); }

}  // namespace dualfp
