// A workload run on an engine in this process, a bounded number of requests at a time.

#pragma once

#include <functional>

#include "bench/serving/workload/workload.h"
#include "dualfp/engine/engine.h"

namespace dualfp {

struct EngineLoadResult {
  double seconds = 0;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  TokensByPrecision tokens_by_precision{};

  double output_per_second() const { return static_cast<double>(output_tokens) / seconds; }
  double total_per_second() const {
    return static_cast<double>(prompt_tokens + output_tokens) / seconds;
  }
};

// Prompts are random ids, greedy, past EOS; times of the workload do not count. Other seeds are
// other prompts, which the prefix cache does not know. Throws kInternal when a request fails, and
// what Engine::Submit() throws.
EngineLoadResult RunOnEngine(Engine& engine, const Workload& workload, int64_t concurrency,
                             uint64_t seed, const std::function<void(int64_t done)>& progress);

}  // namespace dualfp
