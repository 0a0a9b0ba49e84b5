// The threads that CPU functions of the C interface share.

#pragma once

#include <mutex>

#include "dualfp/base/thread_pool.h"

namespace dualfp::capi {

// Holds the threads for one op. A process that was forked gets threads of its own.
class HostThreads {
 public:
  HostThreads();
  ThreadPool& pool() const { return *pool_; }

 private:
  std::unique_lock<std::mutex> lock_;
  ThreadPool* pool_;
};

// Throws kInvalidArgument for a negative number. 0: ThreadPool's default.
void SetHostThreads(int threads);

}  // namespace dualfp::capi
