#include "bench/serving/load/engine_load.h"

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

// Filled in by the engine's thread, waited for by the caller's. Sinks share it: one may be called
// after an exception has ended the run.
struct Progress {
  std::mutex mutex;
  std::condition_variable changed;
  int64_t done = 0;
  std::string error;
  EngineLoadResult result;

  void Finish(const RequestOutput& output) {
    const std::lock_guard lock(mutex);
    ++done;
    if (!output.error.empty() && error.empty()) {
      error = output.error;
    }
    result.prompt_tokens += output.usage.prompt_tokens;
    result.output_tokens += output.usage.completion_tokens;
    for (int i = 0; i < kNumPrecisionClasses; ++i) {
      result.tokens_by_precision[i] +=
          output.usage.prompt_by_precision[i] + output.usage.completion_by_precision[i];
    }
    changed.notify_one();
  }
};

}  // namespace

EngineLoadResult RunOnEngine(Engine& engine, const Workload& workload, int64_t concurrency,
                             uint64_t seed, const std::function<void(int64_t done)>& report) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int32_t> token(0,
                                               static_cast<int32_t>(engine.info().vocab_size) - 1);
  auto progress = std::make_shared<Progress>();
  const TimePoint begin = Clock::now();
  const auto total = static_cast<int64_t>(workload.size());
  int64_t submitted = 0;
  int64_t done = 0;
  while (done < total) {
    for (; submitted < total && submitted - done < concurrency; ++submitted) {
      const PlannedRequest& planned = workload[static_cast<size_t>(submitted)];
      Request request;
      for (int64_t i = 0; i < planned.prompt_tokens; ++i) {
        request.prompt.push_back(token(random));
      }
      request.sampling.max_tokens = planned.output_tokens;
      request.sampling.temperature = 0;
      request.sampling.ignore_eos = true;
      engine.Submit(std::move(request), [progress](const RequestOutput& output) {
        if (output.finished) {
          progress->Finish(output);
        }
      });
    }
    std::unique_lock lock(progress->mutex);
    progress->changed.wait(lock, [&] { return progress->done > done; });
    done = progress->done;
    Check(progress->error.empty(), ErrorCode::kInternal, "a request failed: ", progress->error);
    lock.unlock();
    report(done);
  }
  progress->result.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return progress->result;
}

}  // namespace dualfp
