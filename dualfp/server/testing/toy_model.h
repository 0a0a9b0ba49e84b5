// A model for tests of everything above the engine: the real engine over a runner whose logits are
// a hash of the context, and a vocabulary of single characters.

#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "dualfp/engine/engine.h"
#include "dualfp/server/server_config.h"

namespace dualfp::testing {

// 101 tokens: printable ASCII, line feed, "é", the three bytes of "日" one by one, and at last
// "<eos>", which is special.
constexpr int32_t kToyVocabSize = 101;
constexpr int32_t kToyEos = 100;

struct ToyOptions {
  std::chrono::microseconds step_time{0};  // slept in each step
  int max_waiting = 1024;
  int max_num_seqs = 64;
  int64_t max_model_len = 2048;
  int64_t num_blocks = 4096;
};

// An engine and what serves it; the engine ends with the object.
class ToyModel {
 public:
  explicit ToyModel(const ToyOptions& options = {});

  ServedModel Serve();
  Engine& engine() { return *engine_; }

 private:
  std::shared_ptr<Engine> engine_;
};

// The text side alone. Chats become "role: content\n" lines and "assistant: ".
std::shared_ptr<const TextCodec> ToyCodec();

}  // namespace dualfp::testing
