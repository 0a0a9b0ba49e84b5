// An engine without a model, which says what the test tells it to.

#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/server/engine_client.h"

namespace dualfp::testing {

class ScriptedEngine final : public EngineClient {
 public:
  struct Submitted {
    Request request;
    OutputSink sink;
    bool cancelled = false;
    Usage usage;
  };

  ScriptedEngine() : metrics_(128) {
    info_.vocab_size = 101;
    info_.num_layers = 4;
    info_.max_model_len = 128;
    config_.max_logprobs = 5;
    config_.max_choices = 8;
    status_.controller = "threshold";
    status_.current = PrecisionPlan::Uniform(4, Precision::kExact);
  }

  RequestId Submit(Request request, OutputSink sink) override {
    if (fail_with) {
      throw *fail_with;
    }
    if (static_cast<int>(submitted.size()) >= max_submitted) {
      Fail(ErrorCode::kResourceExhausted, "the queue is full");
    }
    submitted.push_back({std::move(request), std::move(sink)});
    submitted.back().usage.prompt_tokens =
        static_cast<int64_t>(submitted.back().request.prompt.size());
    return submitted.size();
  }
  void Cancel(RequestId id) override { submitted.at(id - 1).cancelled = true; }
  void SetPrecision(PrecisionSetting setting) override { status_.setting = std::move(setting); }
  PrecisionStatus GetPrecision() const override { return status_; }
  const EngineMetrics& metrics() const override { return metrics_; }
  const RunnerInfo& info() const override { return info_; }
  const EngineConfig& config() const override { return config_; }

  // One output of request `id` (from 0): a token for choice `index`.
  void Emit(size_t id, int index, std::string_view text, int32_t token,
            FinishReason finish = FinishReason::kNone, bool finished = false,
            std::string_view error = {}) {
    Submitted& request = submitted.at(id);
    ChoiceOutput choice;
    choice.index = index;
    choice.text = text;
    choice.token_ids = {&token, 1};
    choice.finish_reason = finish;
    const TokenLogprob top[] = {{token, -0.5f, 1, text}, {7, -1.5f, 2, "'"}};
    const PositionLogprobs position = {top[0], top};
    const PositionLogprobs first = {{-1, 0.0f, 0, ""}, {}};
    const PositionLogprobs prompt[] = {first, position};
    if (request.request.sampling.logprobs) {
      choice.logprobs = {&position, 1};
    }
    RequestOutput output;
    output.id = id + 1;
    output.choices = {&choice, 1};
    if (request.request.sampling.prompt_logprobs && request.usage.completion_tokens == 0) {
      output.prompt_logprobs = {prompt, std::min<size_t>(2, request.request.prompt.size())};
    }
    ++request.usage.completion_tokens;
    ++request.usage.completion_by_precision[static_cast<int>(PrecisionClass::kFp8)];
    request.usage.prompt_by_precision[0] = request.usage.prompt_tokens;
    output.usage = request.usage;
    output.finished = finished;
    output.error = error;
    output.timing.arrival = request.request.arrival;
    output.timing.first_token = Clock::now();
    request.sink(output);
  }

  std::vector<Submitted> submitted;
  int max_submitted = 1000;
  std::optional<Error> fail_with;

 private:
  RunnerInfo info_;
  EngineConfig config_;
  EngineMetrics metrics_;
  PrecisionStatus status_;
};

}  // namespace dualfp::testing
