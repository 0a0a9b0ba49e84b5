#include "dualfp/engine/sequence.h"

#include <algorithm>
#include <utility>

#include "dualfp/engine/request_limits.h"

namespace dualfp {
namespace {

// Room for the text of one step; longer text makes the string grow.
constexpr size_t kTextReserve = 256;

SampleRow MakeDraw(const SamplingParams& sampling, uint64_t seed, int choice) {
  SampleRow row;
  row.seed = seed;
  row.choice = static_cast<uint32_t>(choice);
  row.temperature = sampling.temperature;
  row.top_k = sampling.top_k;
  row.top_p = sampling.top_p;
  row.min_p = sampling.min_p;
  row.presence_penalty = sampling.presence_penalty;
  row.frequency_penalty = sampling.frequency_penalty;
  row.repetition_penalty = sampling.repetition_penalty;
  return row;
}

}  // namespace

std::unique_ptr<RequestState> MakeRequestState(Request request, OutputSink sink, uint64_t seed,
                                               const RequestContext& context) {
  auto state = std::make_unique<RequestState>();
  state->request = std::move(request);
  state->sink = std::move(sink);
  Request& own = state->request;
  const SamplingParams& sampling = own.sampling;
  state->completion_limit = CompletionLimit(own, context.max_model_len);
  state->timing.arrival = own.arrival;
  state->usage.prompt_tokens = state->prompt_size();
  if (own.ttft_target == 0.0) {
    own.ttft_target = context.default_ttft_target;
  }
  if (own.tpot_target == 0.0) {
    own.tpot_target = context.default_tpot_target;
  }
  // EOS is masked by min_tokens even where it is ignored as an end, as in vLLM.
  state->stop_ids = context.eos_token_ids;
  state->num_eos = static_cast<int64_t>(state->stop_ids.size());
  state->stop_ids.insert(state->stop_ids.end(), sampling.stop_token_ids.begin(),
                         sampling.stop_token_ids.end());

  for (const auto& [token, bias] : sampling.logit_bias) {
    state->bias.push_back({token, bias});
  }
  state->penalties = sampling.presence_penalty != 0.0f || sampling.frequency_penalty != 0.0f ||
                     sampling.repetition_penalty != 1.0f;
  state->needs_state = state->penalties || !state->bias.empty() ||
                       (sampling.min_tokens > 0 && !state->stop_ids.empty());

  const auto scores = [&](const std::optional<int>& tops) {
    return tops ? 1 + static_cast<int>(std::min<int64_t>(*tops, context.vocab_size)) : 0;
  };
  state->scores_per_token = scores(sampling.logprobs);
  state->scores_per_prompt_token = scores(sampling.prompt_logprobs);
  state->prompt_scores.reserve((state->prompt_size() - 1) * state->scores_per_prompt_token);

  state->choices.resize(sampling.n);
  state->num_unfinished = sampling.n;
  for (int choice = 0; choice < sampling.n; ++choice) {
    Sequence& sequence = state->choices[choice];
    sequence.request = state.get();
    sequence.choice = choice;
    sequence.output.reserve(state->completion_limit);
    sequence.blocks.reserve((state->max_length() + context.block_size - 1) / context.block_size);
    sequence.draw = MakeDraw(sampling, sampling.seed.value_or(seed), choice);
    sequence.new_scores.reserve(state->scores_per_token * (1 + context.max_draft_tokens));
    if (context.vocabulary != nullptr) {
      sequence.text = std::make_unique<TextOutput>(
          context.vocabulary->NewStream(own.prompt, sampling.skip_special_tokens), &sampling.stop,
          sampling.include_stop_str_in_output);
      sequence.new_text.reserve(kTextReserve);
    }
  }
  return state;
}

}  // namespace dualfp
