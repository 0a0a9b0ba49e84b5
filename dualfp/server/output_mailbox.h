// From the engine's thread to the server's: outputs are copied in, and taken out all at once.

#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "dualfp/server/engine_output.h"

namespace dualfp {

// Two buffers change places, so that once warm neither side allocates for plain tokens.
class OutputMailbox {
 public:
  // Called by Push() when the mailbox stops being empty: arrange that Drain() is called soon.
  // Must not block, nor call back.
  explicit OutputMailbox(std::function<void()> wake) : wake_(std::move(wake)) {}

  // Any thread.
  void Push(uint64_t tag, const RequestOutput& output);

  // One thread. Hands over what was pushed, in order, but at most `max_outputs`; `consume` may
  // change them. True when there may be more: call again, as nobody is woken for those.
  bool Drain(size_t max_outputs, const std::function<void(EngineOutput&)>& consume);

  // From now on nobody is woken. Call it before what `wake` uses goes away.
  void Close();

 private:
  struct Buffer {
    std::vector<EngineOutput> outputs;  // used ones first; the others keep their memory
    size_t used = 0;
    size_t taken = 0;  // of the used ones
  };

  std::mutex mutex_;
  std::function<void()> wake_;  // guarded by mutex_; null once closed
  Buffer incoming_;             // guarded by mutex_
  Buffer draining_;
};

}  // namespace dualfp
