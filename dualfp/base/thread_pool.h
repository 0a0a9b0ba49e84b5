// A fixed set of threads that run one parallel loop at a time.
//
// Ops are short (tens of microseconds to milliseconds) and follow each other closely, so workers
// spin briefly for the next loop before they sleep, and a loop costs about a microsecond to start.
// The calling thread takes part: ThreadPool(1) starts no thread and runs everything inline.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace dualfp {

class ThreadPool {
 public:
  // num_threads counts the caller; 0 means DUALFP_NUM_THREADS or, without it, one per core.
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls body(thread) once for each thread in [0, num_threads), and returns when all have.
  // The first exception thrown by a body is rethrown here. Not reentrant: a body must not call
  // back into the pool it runs on.
  void RunOnAll(const std::function<void(int thread)>& body);

  // Splits [0, count) into chunks of `grain` that threads take as they become free.
  // body(begin, end, thread).
  void ParallelFor(int64_t count, int64_t grain,
                   const std::function<void(int64_t begin, int64_t end, int thread)>& body);

 private:
  struct State;
  int num_threads_;
  std::unique_ptr<State> state_;
};

}  // namespace dualfp
