#include "dualfp/server/output_mailbox.h"

#include <algorithm>
#include <utility>

namespace dualfp {
namespace {

// What a buffer keeps after a burst.
constexpr size_t kMaxKept = 4096;

}  // namespace

void OutputMailbox::Push(uint64_t tag, const RequestOutput& output) {
  const std::lock_guard lock(mutex_);
  if (wake_ == nullptr) {
    return;
  }
  if (incoming_.used == incoming_.outputs.size()) {
    incoming_.outputs.emplace_back();
  }
  incoming_.outputs[incoming_.used++].Assign(tag, output);
  if (incoming_.used == 1) {
    wake_();
  }
}

void OutputMailbox::Close() {
  const std::lock_guard lock(mutex_);
  wake_ = nullptr;
}

bool OutputMailbox::Drain(size_t max_outputs, const std::function<void(EngineOutput&)>& consume) {
  if (draining_.taken == draining_.used) {
    draining_.taken = draining_.used = 0;
    if (draining_.outputs.size() > kMaxKept) {
      draining_.outputs.resize(kMaxKept);
    }
    const std::lock_guard lock(mutex_);
    std::swap(incoming_, draining_);
  }
  const size_t end = std::min(draining_.used, draining_.taken + max_outputs);
  while (draining_.taken < end) {
    consume(draining_.outputs[draining_.taken++]);
  }
  return draining_.used > 0;
}

}  // namespace dualfp
