// What the engine's tests share: outputs put together, and the tokens that a request must get,
// computed without an engine.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dualfp/engine/engine_core.h"
#include "dualfp/engine/testing/fake_runner.h"

namespace dualfp::testing {

struct Score {
  int32_t token_id = -1;
  float logprob = 0.0f;
  int32_t rank = 0;
  std::string bytes;

  friend bool operator==(const Score&, const Score&) = default;
};

struct PositionScores {
  Score chosen;
  std::vector<Score> top;

  friend bool operator==(const PositionScores&, const PositionScores&) = default;
};

struct Choice {
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<PositionScores> logprobs;
  FinishReason finish_reason = FinishReason::kNone;
  int32_t stop_token = -1;
  std::string stop_string;
};

// A request's outputs, joined. Broken rules of RequestOutput end up in `violation`.
struct Collected {
  RequestId id = 0;
  std::vector<Choice> choices;
  std::vector<PositionScores> prompt_logprobs;
  bool finished = false;
  int num_outputs = 0;
  std::string error;
  std::string violation;
  Usage usage;
  RequestTiming timing;

  void Take(const RequestOutput& output);
};

// Tokens of choice `choice`, had the model nothing else to do and every token the precision of
// `plan_tag`, those of the prompt that of `prompt_tag` where it is given. Stop strings are not
// looked at.
std::vector<int32_t> ExpectedTokens(const Request& request, int choice, uint64_t seed,
                                    uint64_t plan_tag, const RunnerInfo& info,
                                    const std::vector<int32_t>& eos_token_ids,
                                    std::optional<uint64_t> prompt_tag = {});

// An EngineCore over a FakeRunner, stepped by the test.
class CoreHarness {
 public:
  CoreHarness(const EngineConfig& config, const RunnerInfo& info,
              std::shared_ptr<PrecisionController> controller = nullptr,
              std::shared_ptr<const Vocabulary> vocabulary = nullptr);

  // The result lives as long as the harness.
  Collected* Submit(Request request);

  // Steps until nothing is left, checking all accounts after each step. Steps made.
  int Run();

  FakeRunner& runner() { return runner_; }
  EngineCore& core() { return *core_; }
  void DestroyCore() { core_ = nullptr; }
  EngineMetrics& metrics() { return metrics_; }

 private:
  EngineConfig config_;
  FakeRunner runner_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  EngineMetrics metrics_;
  std::vector<std::unique_ptr<Collected>> collected_;
  std::unique_ptr<EngineCore> core_;
};

uint64_t UniformTag(const RunnerInfo& info, Precision precision);

}  // namespace dualfp::testing
