#include "dualfp/server/output_mailbox.h"

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

void OutputMailbox::Drain(const std::function<void(EngineOutput&)>& consume) {
  {
    const std::lock_guard lock(mutex_);
    std::swap(incoming_, draining_);
  }
  for (size_t i = 0; i < draining_.used; ++i) {
    consume(draining_.outputs[i]);
  }
  draining_.used = 0;
  if (draining_.outputs.size() > kMaxKept) {
    draining_.outputs.resize(kMaxKept);
  }
}

}  // namespace dualfp
