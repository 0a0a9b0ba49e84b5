// The engine as the rest of the program sees it: thread-safe, a queue in and a sink out.
//
// One thread, started by the constructor, owns the runner, the KV blocks and all requests. Every
// method below may be called from any thread, except that a sink may call only Cancel().
// README.md in this folder is the contract.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dualfp/engine/metrics.h"
#include "dualfp/engine/model_runner.h"
#include "dualfp/engine/precision/precision_controller.h"
#include "dualfp/engine/request.h"
#include "dualfp/engine/vocabulary.h"

namespace dualfp {

struct StepReport;

struct EngineConfig {
  // A step has at most this many rows and sequences; clipped to the runner's bounds.
  int64_t max_num_batched_tokens = 2048;
  int max_num_seqs = 256;

  // Requests in the queue and sequences that wait (new or preempted); while there are this many,
  // new requests are refused.
  int max_waiting = 1024;

  bool enable_prefix_caching = true;
  int max_logprobs = 20;
  int max_choices = 128;
  std::vector<int32_t> eos_token_ids;

  // For requests without their own; 0: none.
  double default_ttft_target = 0.0;
  double default_tpot_target = 0.0;

  // From which requests without a seed get theirs; nothing: at random.
  std::optional<uint64_t> seed;

  // Called on the engine's thread after each step, for timelines; must not block. Optional.
  std::function<void(const StepReport&)> on_step;

  // Replaces the clock; tests only.
  std::function<TimePoint()> now;
};

struct StepReport {
  uint64_t step = 0;
  TimePoint start;
  double seconds = 0.0;            // the whole step, from the end of the one before if it waited
  double execute_seconds = 0.0;    // in the runner's calls
  double predicted_seconds = 0.0;  // the cost model's, before the step
  StepFeatures features;
  int num_running = 0;
  int num_waiting = 0;
  double kv_usage = 0.0;
  const PrecisionPlan* plan = nullptr;  // the controller's, for rows that generate
  bool switched = false;                // it differs from the previous step's
};

// kAuto is the controller given to the constructor. kLayers is a precision per layer.
enum class PrecisionMode : uint8_t { kExact, kFp8, kAuto, kLayers };

struct PrecisionSetting {
  PrecisionMode mode = PrecisionMode::kAuto;
  std::vector<Precision> layers;  // kLayers only: one for each layer of the model
};

struct PrecisionStatus {
  PrecisionSetting setting;
  std::string controller;  // name of the one in force
  PrecisionPlan current;   // of the last step
};

// For the web page, /health and logs; /metrics reads metrics().
struct EngineStats {
  int num_running = 0;  // sequences
  int num_waiting = 0;  // sequences, and requests in the queue
  int64_t free_blocks = 0;
  int64_t num_blocks = 0;
  uint64_t steps = 0;
  bool accepting = true;  // false once draining or shutting down
};

class Engine {
 public:
  // `vocabulary` may be null: outputs then carry no text, and stop strings are refused.
  // `automatic` may be null: kAuto is then FP16 where the model has it, else FP8.
  Engine(EngineConfig config, std::unique_ptr<ModelRunner> runner,
         std::shared_ptr<const Vocabulary> vocabulary,
         std::unique_ptr<PrecisionController> automatic, const PrecisionSetting& initial = {});

  // Shutdown(Clock::now()).
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Queues a request. Outputs go to `sink`, the last with `finished` set, possibly before this
  // returns. Throws, and never calls the sink,
  //   kInvalidArgument    a parameter is out of range, or the request could never fit: its prompt
  //                       and max_tokens exceed max_model_len or all KV blocks together
  //   kUnsupported        its pin is a precision that the model cannot compute at
  //   kResourceExhausted  the queue is full: try later
  //   kCancelled          the engine is shutting down
  RequestId Submit(Request request, OutputSink sink);

  // The request's last output, with kAbort, follows at the next step. An id that is unknown or
  // finished is ignored.
  void Cancel(RequestId id);

  // From the next step on. Throws kInvalidArgument (layers) or kUnsupported (precision).
  void SetPrecision(PrecisionSetting setting);
  PrecisionStatus GetPrecision() const;

  EngineStats Stats() const;
  const EngineMetrics& metrics() const;
  const RunnerInfo& info() const;
  const EngineConfig& config() const;

  // Stops accepting and waits for the requests at hand; false if some remain at the deadline.
  bool Drain(TimePoint deadline);

  // Drain(deadline), then aborts what remains and ends the thread. Idempotent.
  void Shutdown(TimePoint deadline);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dualfp
