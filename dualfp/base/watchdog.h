// A hung GPU kernel cannot be stopped, and whoever waits for it waits for ever: tools and tests end
// the process instead.

#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>
#include <thread>

namespace dualfp {

class Watchdog {
 public:
  // What takes longer than `limit` while watched is hung.
  explicit Watchdog(std::chrono::milliseconds limit);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // Watches the time until it goes out of scope; when that is too long, calls `expired` from
  // another thread and ends the process with status 1.
  class Watch {
   public:
    Watch(Watchdog& dog, std::function<void()> expired);
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

   private:
    friend class Watchdog;
    Watchdog& dog_;
    std::function<void()> expired_;
    std::chrono::steady_clock::time_point deadline_;
    std::list<Watch*>::iterator place_;
  };

 private:
  void Run();

  const std::chrono::milliseconds limit_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Watch*> watches_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace dualfp
