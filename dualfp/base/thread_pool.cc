#include "dualfp/base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "dualfp/base/env.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dualfp {
namespace {

constexpr int kMaxThreads = 4096;
// Long enough to bridge the gap between two ops of a decode step, short enough (about 50 us) that
// an idle process uses no CPU worth mentioning.
constexpr int kSpinIterations = 2000;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

int DefaultNumThreads() {
  if (const auto wanted = GetEnvInt("DUALFP_NUM_THREADS", 1, kMaxThreads)) {
    return static_cast<int>(*wanted);
  }
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake;

  // A loop is published by bumping `epoch` after `body` is set; each worker answers by lowering
  // `pending`. The caller returns when it reaches zero, so `body` outlives every use.
  std::atomic<uint64_t> epoch{0};
  std::atomic<int> pending{0};
  std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};
  const std::function<void(int)>* body = nullptr;

  std::mutex error_mutex;
  std::exception_ptr error;

  void Call(int thread) {
    try {
      (*body)(thread);
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) {
        error = std::current_exception();
      }
    }
  }

  void Work(int thread) {
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < kSpinIterations && epoch.load(std::memory_order_acquire) == seen; ++i) {
        Pause();
      }
      if (epoch.load() == seen) {
        std::unique_lock lock(mutex);
        sleepers.fetch_add(1);
        wake.wait(lock, [&] { return epoch.load() != seen || stop.load(); });
        sleepers.fetch_sub(1);
      }
      if (stop.load()) {
        return;
      }
      seen = epoch.load(std::memory_order_acquire);
      Call(thread);
      pending.fetch_sub(1, std::memory_order_release);
    }
  }
};

ThreadPool::ThreadPool(int num_threads)
    : num_threads_(std::clamp(num_threads > 0 ? num_threads : DefaultNumThreads(), 1, kMaxThreads)),
      state_(std::make_unique<State>()) {
  for (int thread = 1; thread < num_threads_; ++thread) {
    state_->workers.emplace_back([this, thread] { state_->Work(thread); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop.store(true);
    state_->epoch.fetch_add(1);
  }
  state_->wake.notify_all();
  for (std::thread& worker : state_->workers) {
    worker.join();
  }
}

void ThreadPool::RunOnAll(const std::function<void(int)>& body) {
  if (num_threads_ == 1) {
    body(0);
    return;
  }
  State& state = *state_;
  state.body = &body;
  state.pending.store(num_threads_ - 1, std::memory_order_relaxed);
  state.epoch.fetch_add(1);
  if (state.sleepers.load() > 0) {
    // A worker that has counted itself asleep holds the mutex until it waits, so this lock cannot
    // slip between its last look at `epoch` and its sleep.
    { const std::lock_guard lock(state.mutex); }
    state.wake.notify_all();
  }
  state.Call(0);
  for (int spins = 0; state.pending.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpinIterations) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (state.error) {
    std::rethrow_exception(std::exchange(state.error, nullptr));
  }
}

void ThreadPool::ParallelFor(int64_t count, int64_t grain,
                             const std::function<void(int64_t, int64_t, int)>& body) {
  grain = std::max<int64_t>(grain, 1);
  if (count <= grain || num_threads_ == 1) {
    if (count > 0) {
      body(0, count, 0);
    }
    return;
  }
  std::atomic<int64_t> next{0};
  const auto take_chunks = [&](int thread) {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) {
        return;
      }
      body(begin, std::min(begin + grain, count), thread);
    }
  };
  RunOnAll(std::cref(take_chunks));  // by reference: a std::function of it needs no allocation
}

}  // namespace dualfp
