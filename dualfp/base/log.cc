#include "dualfp/base/log.h"

#include <atomic>
#include <cstdio>

namespace dualfp {
namespace {

void DefaultSink(LogLevel level, std::string_view line) {
  if (level == LogLevel::kWarning) {
    std::fprintf(stderr, "warning: %.*s\n", static_cast<int>(line.size()), line.data());
  }
}

std::atomic<LogSink> g_sink{&DefaultSink};

}  // namespace

void SetLogSink(LogSink sink) { g_sink.store(sink != nullptr ? sink : &DefaultSink); }

void Log(LogLevel level, std::string_view line) { g_sink.load()(level, line); }

}  // namespace dualfp
