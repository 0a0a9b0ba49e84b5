#include "capi/host_threads.h"

#include <unistd.h>

#include <memory>

#include "dualfp/base/check.h"

namespace dualfp::capi {
namespace {

struct Shared {
  std::mutex mutex;
  std::unique_ptr<ThreadPool> pool;
  pid_t owner = 0;  // the process whose threads they are
  int threads = 0;
};

// Never destroyed: ops may run while the process ends.
Shared& TheShared() {
  static auto* shared = new Shared;
  return *shared;
}

}  // namespace

HostThreads::HostThreads() : lock_(TheShared().mutex) {
  Shared& shared = TheShared();
  if (shared.pool == nullptr || shared.owner != getpid()) {
    // The threads of a parent do not exist here, so that waiting for them would never end.
    static_cast<void>(shared.pool.release());
    shared.pool = std::make_unique<ThreadPool>(shared.threads);
    shared.owner = getpid();
  }
  pool_ = shared.pool.get();
}

void SetHostThreads(int threads) {
  Check(threads >= 0, ErrorCode::kInvalidArgument, "threads: ", threads, ", expected 0 or more");
  Shared& shared = TheShared();
  const std::lock_guard lock(shared.mutex);
  if (threads != shared.threads && shared.owner == getpid()) {
    shared.pool.reset();
  }
  shared.threads = threads;
}

}  // namespace dualfp::capi
