#include "dualfp/server/generation.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace dualfp {
namespace {

// Finds each token of an echoed prompt in its text: special tokens that were put around the text
// are not in it, and some tokenizers begin a text with a space of their own.
void AlignWithText(std::string_view text, const TextCodec& codec,
                   std::vector<PositionEntry>* positions) {
  for (PositionEntry& position : *positions) {
    std::string_view bytes = position.chosen.bytes;
    if (!text.starts_with(bytes) && bytes.starts_with(' ')) {
      bytes.remove_prefix(1);
    }
    const bool left_out = !text.starts_with(bytes) && codec.IsSpecial(position.chosen.token_id);
    const size_t length = left_out ? 0 : std::min(bytes.size(), text.size());
    position.characters = CountCharacters(text.substr(0, length));
    text.remove_prefix(length);
  }
}

}  // namespace

Generation::Generation(std::unique_ptr<PreparedGeneration> prepared, ResponseSink* sink)
    : prepared_(std::move(prepared)),
      sink_(sink),
      choices_per_prompt_(prepared_->requests.front().sampling.n),
      arrival_(prepared_->requests.front().arrival) {
  const size_t num_choices = prepared_->requests.size() * static_cast<size_t>(choices_per_prompt_);
  prompts_.resize(prepared_->requests.size());
  choices_.resize(num_choices);
  started_.resize(num_choices);
  text_offsets_.resize(num_choices);
  if (prepared_->stream) {
    chunks_.emplace(prepared_->head, prepared_->options, prepared_->include_usage);
  }
}

void Generation::Submit(const std::function<OutputSink(int prompt)>& make_sink) {
  for (size_t i = 0; i < prompts_.size(); ++i) {
    Request& request = prepared_->requests[i];
    prompts_[i].first_token = request.prompt.empty() ? -1 : request.prompt.front();
    if (prepared_->options.token_ids) {
      prompts_[i].token_ids = request.prompt;
    }
    try {
      prompts_[i].id =
          prepared_->model->engine->Submit(std::move(request), make_sink(static_cast<int>(i)));
    } catch (...) {
      for (size_t j = i; j < prompts_.size(); ++j) {
        prompts_[j].finished = true;
      }
      CancelEngine();
      sink_ = nullptr;
      throw;
    }
  }
}

int Generation::ChoiceIndex(int prompt, int index) const {
  return prompt * choices_per_prompt_ + index;
}

Usage Generation::TotalUsage() const {
  Usage total;
  for (const PromptState& prompt : prompts_) {
    total.prompt_tokens += prompt.usage.prompt_tokens;
    total.cached_tokens += prompt.usage.cached_tokens;
    total.completion_tokens += prompt.usage.completion_tokens;
    for (int i = 0; i < kNumPrecisionClasses; ++i) {
      total.prompt_by_precision[i] += prompt.usage.prompt_by_precision[i];
      total.completion_by_precision[i] += prompt.usage.completion_by_precision[i];
    }
  }
  if (!prepared_->generate) {
    total.completion_tokens = 0;
    total.completion_by_precision = {};
  }
  return total;
}

// What is known of a choice before its first token: with echo, the prompt.
ResponseChoice Generation::BeginChoice(int prompt, int index) const {
  ResponseChoice choice;
  choice.index = index;
  choice.prompt_token_ids = prompts_[prompt].token_ids;
  if (prepared_->echo) {
    choice.text = prepared_->prompt_texts[prompt];
    if (prepared_->options.logprobs) {
      choice.logprobs = prompts_[prompt].logprobs;
    }
  }
  return choice;
}

void Generation::OnOutput(int prompt, EngineOutput& output) {
  if (done()) {
    return;
  }
  PromptState& state = prompts_[prompt];
  state.usage = output.usage;
  if (!output.prompt_logprobs.empty()) {
    state.logprobs = std::move(output.prompt_logprobs);
    PositionEntry& first = state.logprobs.front();
    if (!first.has_logprob && prepared_->model->text != nullptr) {
      first.chosen.token_id = state.first_token;
      first.chosen.bytes = prepared_->model->text->TokenBytes(first.chosen.token_id);
    }
    if (prepared_->echo && prepared_->model->text != nullptr) {
      AlignWithText(prepared_->prompt_texts[prompt], *prepared_->model->text, &state.logprobs);
    }
  }
  if (first_token_ == TimePoint{}) {
    first_token_ = output.timing.first_token;
  }
  state.finished |= output.finished;

  for (const ChoiceDelta& delta : output.choices) {
    if (delta.finish_reason == FinishReason::kError) {
      FailWith(ApiError(500, output.error.empty() ? "the computation failed" : output.error, "",
                        "engine_error"));
      return;
    }
    if (delta.finish_reason == FinishReason::kAbort) {
      FailWith(ApiError(503, "the server is shutting down", "", "shutting_down"));
      return;
    }
  }
  for (ChoiceDelta& delta : output.choices) {
    if (delta.index < 0 || delta.index >= choices_per_prompt_) {
      continue;
    }
    if (delta.finish_reason != FinishReason::kNone) {
      finish_reason_ = FinishReasonName(delta.finish_reason);
    }
    if (!prepared_->generate) {
      delta.text.clear();
      delta.token_ids.clear();
      delta.logprobs.clear();
    }
    LeaveOutSpecial(&delta.logprobs);
    if (!prepared_->stream) {
      Collect(prompt, delta);
    } else if (!StreamDelta(prompt, delta)) {
      Abandon();
      return;
    }
  }
  if (output.finished && !output.error.empty()) {
    FailWith(ApiError(500, output.error, "", "engine_error"));
    return;
  }
  for (const PromptState& each : prompts_) {
    if (!each.finished) {
      return;
    }
  }
  Finish();
}

// Special tokens have logprobs, but no part of the text.
void Generation::LeaveOutSpecial(std::vector<PositionEntry>* positions) const {
  const TextCodec* text = prepared_->model->text.get();
  if (text == nullptr || !prepared_->skip_special_tokens) {
    return;
  }
  for (PositionEntry& position : *positions) {
    if (text->IsSpecial(position.chosen.token_id)) {
      position.characters = 0;
    }
  }
}

void Generation::Collect(int prompt, ChoiceDelta& delta) {
  const int index = ChoiceIndex(prompt, delta.index);
  ResponseChoice& choice = choices_[index];
  if (!started_[index]) {
    started_[index] = true;
    choice = BeginChoice(prompt, index);
  }
  choice.text += delta.text;
  choice.token_ids.insert(choice.token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
  std::move(delta.logprobs.begin(), delta.logprobs.end(), std::back_inserter(choice.logprobs));
  choice.finish_reason = delta.finish_reason;
  choice.stop_reason = std::move(delta.stop_reason);
}

bool Generation::StreamDelta(int prompt, ChoiceDelta& delta) {
  if (!stream_begun_) {
    stream_begun_ = true;
    sink_->BeginStream();
  }
  const int index = ChoiceIndex(prompt, delta.index);
  const bool first = !started_[index];
  ResponseChoice chunk;
  if (first) {
    started_[index] = true;
    chunk = BeginChoice(prompt, index);
  }
  chunk.index = index;
  chunk.text += delta.text;
  chunk.token_ids = std::move(delta.token_ids);
  std::move(delta.logprobs.begin(), delta.logprobs.end(), std::back_inserter(chunk.logprobs));
  chunk.finish_reason = delta.finish_reason;
  chunk.stop_reason = std::move(delta.stop_reason);

  std::optional<Usage> usage;
  if (prepared_->continuous_usage) {
    usage = TotalUsage();
  }
  std::string event;
  chunks_->AppendDelta(chunk, first, usage ? &*usage : nullptr, &text_offsets_[index], &event);
  return sink_->Write(event);
}

void Generation::Summarize() {
  const Usage usage = TotalUsage();
  GenerationSummary summary;
  summary.id = prepared_->head.id;
  summary.prompt_tokens = usage.prompt_tokens;
  summary.completion_tokens = usage.completion_tokens;
  if (first_token_ != TimePoint{}) {
    summary.ttft_seconds = std::chrono::duration<double>(first_token_ - arrival_).count();
  }
  summary.finish_reason = finish_reason_;
  sink_->Summarize(summary);
}

void Generation::Finish() {
  Summarize();
  ResponseSink* sink = std::exchange(sink_, nullptr);
  if (prepared_->stream) {
    std::string events;
    if (prepared_->include_usage) {
      chunks_->AppendUsage(TotalUsage(), &events);
    }
    AppendDoneEvent(&events);
    if (sink->Write(events)) {
      sink->EndStream();
    }
    return;
  }
  std::vector<std::vector<PositionEntry>> prompt_logprobs;
  for (PromptState& prompt : prompts_) {
    prompt_logprobs.push_back(std::move(prompt.logprobs));
  }
  HttpResponse response;
  response.body =
      WriteResponse(prepared_->head, prepared_->options, choices_, TotalUsage(), prompt_logprobs);
  sink->Send(std::move(response));
}

void Generation::FailWith(const ApiError& error) {
  if (done()) {
    return;
  }
  CancelEngine();
  finish_reason_ = "error";
  Summarize();
  ResponseSink* sink = std::exchange(sink_, nullptr);
  if (!stream_begun_) {
    HttpResponse response;
    response.status = error.status();
    response.body = error.ToJson();
    sink->Send(std::move(response));
    return;
  }
  std::string events;
  AppendErrorEvent(error.ToJson(), &events);
  AppendDoneEvent(&events);
  if (sink->Write(events)) {
    sink->EndStream();
  }
}

void Generation::Abandon() {
  if (done()) {
    return;
  }
  finish_reason_ = "abort";
  Summarize();
  sink_ = nullptr;
  CancelEngine();
}

void Generation::CancelEngine() {
  for (const PromptState& prompt : prompts_) {
    if (!prompt.finished) {
      prepared_->model->engine->Cancel(prompt.id);
    }
  }
}

}  // namespace dualfp
