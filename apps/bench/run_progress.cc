#include "apps/bench/run_progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <utility>

namespace dualfp {
namespace {
constexpr std::chrono::seconds kLineInterval{10};
}  // namespace

RunProgress::RunProgress(std::string label, int64_t total)
    : label_(std::move(label)),
      total_(total),
      terminal_(isatty(STDERR_FILENO) != 0),
      bar_(label_, 1, "requests/s") {}

void RunProgress::Update(int64_t done, int64_t in_flight) {
  bar_.Update(done, total_);
  const TimePoint now = Clock::now();
  if (!terminal_ && now - last_line_ >= kLineInterval) {
    last_line_ = now;
    fmt::print(stderr, "{}: {} of {} requests after {:.0f} s, {} in flight\n", label_, done, total_,
               std::chrono::duration<double>(now - begin_).count(), in_flight);
  }
}

}  // namespace dualfp
