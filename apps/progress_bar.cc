#include "apps/progress_bar.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

namespace dualfp {
namespace {

double NowSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

constexpr double kRedrawSeconds = 0.05;
constexpr int kBarWidth = 30;

}  // namespace

ProgressBar::ProgressBar(std::string label, double unit, const char* rate)
    : label_(std::move(label)), unit_(unit), rate_(rate), start_seconds_(NowSeconds()) {}

ProgressBar::~ProgressBar() {
  if (shown_) {
    std::fputs("\r\033[K", stderr);
  }
}

void ProgressBar::Update(int64_t done, int64_t total) {
  static const bool terminal = isatty(STDERR_FILENO) != 0;
  const double now = NowSeconds();
  if (!terminal || total <= 0 || now - last_seconds_ < kRedrawSeconds) {
    return;
  }
  last_seconds_ = now;
  shown_ = true;
  const double share = static_cast<double>(done) / static_cast<double>(total);
  const int filled = static_cast<int>(share * kBarWidth);
  const double rate = static_cast<double>(done) / unit_ / std::max(1e-3, now - start_seconds_);
  fmt::print(stderr, "\r{} [{:#<{}}{:.<{}}] {:3.0f} %, {:.{}f} {}\033[K", label_, "", filled, "",
             kBarWidth - filled, 100 * share, rate, unit_ > 1 ? 2 : 0, rate_);
  std::fflush(stderr);
}

}  // namespace dualfp
