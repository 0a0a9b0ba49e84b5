#include "dualfp/engine/testing/harness.h"

#include <algorithm>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/engine/request_limits.h"
#include "dualfp/engine/sampling/batch_sampler.h"

namespace dualfp::testing {
namespace {

PositionScores Copy(const PositionLogprobs& position) {
  const auto copy = [](const TokenLogprob& token) {
    return Score{token.token_id, token.logprob, token.rank, std::string(token.bytes)};
  };
  PositionScores scores;
  scores.chosen = copy(position.chosen);
  for (const TokenLogprob& token : position.top) {
    scores.top.push_back(copy(token));
  }
  return scores;
}

}  // namespace

void Collected::Take(const RequestOutput& output) {
  const auto broken = [&](bool is_broken, const char* what) {
    if (is_broken && violation.empty()) {
      violation = what;
    }
  };
  broken(finished, "an output after the last");
  broken(!output.prompt_logprobs.empty() && !prompt_logprobs.empty(), "prompt logprobs twice");
  for (const PositionLogprobs& position : output.prompt_logprobs) {
    prompt_logprobs.push_back(Copy(position));
  }
  int previous = -1;
  for (const ChoiceOutput& choice : output.choices) {
    broken(choice.index <= previous || choice.index >= static_cast<int>(choices.size()),
           "choices out of order");
    previous = choice.index;
    Choice& own = choices[choice.index];
    broken(own.finish_reason != FinishReason::kNone, "a choice went on after its end");
    broken(!choice.logprobs.empty() && choice.logprobs.size() != choice.token_ids.size(),
           "logprobs do not match the tokens");
    own.tokens.insert(own.tokens.end(), choice.token_ids.begin(), choice.token_ids.end());
    own.text += choice.text;
    for (const PositionLogprobs& position : choice.logprobs) {
      own.logprobs.push_back(Copy(position));
    }
    own.finish_reason = choice.finish_reason;
    if (const auto* token = std::get_if<int32_t>(&choice.stop_reason)) {
      own.stop_token = *token;
    } else if (const auto* text = std::get_if<std::string_view>(&choice.stop_reason)) {
      own.stop_string = *text;
    }
  }
  id = output.id;
  finished = output.finished;
  ++num_outputs;
  error = output.error;
  usage = output.usage;
  timing = output.timing;
  if (finished) {
    int64_t tokens = 0;
    for (const Choice& choice : choices) {
      broken(choice.finish_reason == FinishReason::kNone, "a choice without an end");
      tokens += static_cast<int64_t>(choice.tokens.size());
    }
    broken(tokens != usage.completion_tokens, "completion tokens are miscounted");
  }
}

std::vector<int32_t> ExpectedTokens(const Request& request, int choice, uint64_t seed,
                                    uint64_t plan_tag, const RunnerInfo& info,
                                    const std::vector<int32_t>& eos_token_ids,
                                    std::optional<uint64_t> prompt_tag) {
  const SamplingParams& sampling = request.sampling;
  std::vector<int32_t> stop_ids = eos_token_ids;
  stop_ids.insert(stop_ids.end(), sampling.stop_token_ids.begin(), sampling.stop_token_ids.end());
  ThreadPool threads(1);
  BatchSampler sampler(1, info.vocab_size, 0, &threads);
  std::vector<TokenBias> bias;
  for (const auto& [token, value] : sampling.logit_bias) {
    bias.push_back({token, value});
  }
  SampleRow row;
  row.state = 0;
  row.seed = seed;
  row.choice = choice;
  row.temperature = sampling.temperature;
  row.top_k = sampling.top_k;
  row.top_p = sampling.top_p;
  row.min_p = sampling.min_p;
  row.presence_penalty = sampling.presence_penalty;
  row.frequency_penalty = sampling.frequency_penalty;
  row.repetition_penalty = sampling.repetition_penalty;
  FakeContext context;
  for (const int32_t token : request.prompt) {
    context.Add(token, prompt_tag.value_or(plan_tag));
  }
  std::vector<float> logits(info.vocab_size);
  std::vector<int32_t> tokens;
  const int64_t limit = CompletionLimit(request, info.max_model_len);
  while (true) {
    context.Logits(logits);
    sampler.SetState(0, {.prompt = request.prompt,
                         .output = tokens,
                         .banned = stop_ids,
                         .bias = bias,
                         .penalties = true});
    row.position = tokens.size();
    row.ban = static_cast<int64_t>(tokens.size()) < sampling.min_tokens ? 1 : 0;
    const int32_t token = sampler.Draw({logits.data(), DType::kF32, {1, info.vocab_size}}, row);
    CheckInternal(token >= 0, "no token");
    tokens.push_back(token);
    const auto count = static_cast<int64_t>(tokens.size());
    const auto first =
        stop_ids.begin() + (sampling.ignore_eos ? static_cast<int64_t>(eos_token_ids.size()) : 0);
    const bool stops = std::find(first, stop_ids.end(), token) != stop_ids.end();
    if (count >= limit || (stops && count >= sampling.min_tokens)) {
      return tokens;
    }
    context.Add(token, plan_tag);
  }
}

uint64_t UniformTag(const RunnerInfo& info, Precision precision) {
  return TagOf(PrecisionPlan::Uniform(info.num_layers, precision));
}

CoreHarness::CoreHarness(const EngineConfig& config, const RunnerInfo& info,
                         std::shared_ptr<PrecisionController> controller,
                         std::shared_ptr<const Vocabulary> vocabulary)
    : config_(config),
      runner_(info),
      vocabulary_(std::move(vocabulary)),
      metrics_(info.max_model_len) {
  if (controller == nullptr) {
    controller = MakeFixedController(PrecisionPlan::Uniform(info.num_layers, Precision::kExact));
  }
  core_ = std::make_unique<EngineCore>(config_, &runner_, vocabulary_.get(), std::move(controller),
                                       &metrics_, Hash128{1, 2});
}

Collected* CoreHarness::Submit(Request request) {
  const RunnerInfo& info = runner_.info();
  RequestLimits limits;
  limits.vocab_size = info.vocab_size;
  limits.max_model_len = info.max_model_len;
  limits.max_kv_tokens = info.num_blocks * info.block_size;
  limits.has_vocabulary = vocabulary_ != nullptr;
  ValidateRequest(request, limits);
  RequestContext context{info.vocab_size, info.max_model_len, info.block_size, vocabulary_.get(),
                         config_.eos_token_ids};
  context.default_ttft_target = config_.default_ttft_target;
  context.default_tpot_target = config_.default_tpot_target;
  context.max_draft_tokens = info.max_draft_tokens;

  auto collected = std::make_unique<Collected>();
  collected->choices.resize(request.sampling.n);
  Collected* result = collected.get();
  collected_.push_back(std::move(collected));
  auto state = MakeRequestState(
      std::move(request), [result](const RequestOutput& output) { result->Take(output); },
      /*seed=*/collected_.size(), context);
  result->id = state->id = collected_.size();
  core_->Add(std::move(state));
  return result;
}

int CoreHarness::Run() {
  int steps = 0;
  while (core_->Step()) {
    core_->CheckInvariants();
    CheckInternal(++steps < 100000, "the engine does not come to an end");
  }
  return steps;
}

}  // namespace dualfp::testing
