#include "dualfp/base/watchdog.h"

#include <cstdlib>
#include <utility>

namespace dualfp {

using Clock = std::chrono::steady_clock;

Watchdog::Watchdog(std::chrono::milliseconds limit) : limit_(limit), thread_([this] { Run(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Watchdog::Run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    const auto now = Clock::now();
    for (const Watch* watch : watches_) {
      if (watch->deadline_ <= now) {
        watch->expired_();
        std::_Exit(1);
      }
    }
    changed_.wait_for(lock, limit_ / 8);
  }
}

Watchdog::Watch::Watch(Watchdog& dog, std::function<void()> expired)
    : dog_(dog), expired_(std::move(expired)), deadline_(Clock::now() + dog.limit_) {
  const std::lock_guard lock(dog_.mutex_);
  place_ = dog_.watches_.insert(dog_.watches_.end(), this);
}

Watchdog::Watch::~Watch() {
  const std::lock_guard lock(dog_.mutex_);
  dog_.watches_.erase(place_);
}

}  // namespace dualfp
