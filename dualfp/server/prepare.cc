#include "dualfp/server/prepare.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/server/request_id.h"

namespace dualfp {
namespace {

ApiError TooLong(std::string_view param, std::string_view message) {
  return {400, std::string(message), param, "context_length_exceeded"};
}

// How many prompt tokens to keep; nothing: all.
std::optional<int64_t> Truncation(const GenerationOptions& options, int64_t max_model_len) {
  if (options.truncate_prompt_tokens == -1) {
    const int64_t wanted =
        options.max_tokens_is_default ? 1 : options.sampling.max_tokens.value_or(1);
    return std::max<int64_t>(1, max_model_len - wanted);
  }
  return options.truncate_prompt_tokens;
}

std::vector<int32_t> Tokens(const ServedModel& model, Prompt prompt,
                            const GenerationOptions& options, std::string_view param) {
  const auto limit = Truncation(options, model.engine->info().max_model_len);
  if (const auto* text = std::get_if<std::string>(&prompt)) {
    try {
      return CodecOf(model, param).Encode(*text, options.add_special_tokens, limit);
    } catch (const Error& error) {
      throw ApiError(400, error.what(), limit ? "truncate_prompt_tokens" : param, "invalid_value");
    }
  }
  auto tokens = std::get<std::vector<int32_t>>(std::move(prompt));
  if (limit && static_cast<int64_t>(tokens.size()) > *limit) {
    tokens.erase(tokens.begin(), tokens.end() - *limit);
  }
  return tokens;
}

Request MakeRequest(const ServedModel& model, Prompt prompt, const GenerationOptions& options,
                    std::string_view param, TimePoint arrival) {
  Request request;
  request.prompt = Tokens(model, std::move(prompt), options, param);
  request.sampling = options.sampling;
  request.precision = options.precision;
  request.priority = options.priority;
  request.ttft_target = options.ttft_target;
  request.tpot_target = options.tpot_target;
  request.cache_salt = options.cache_salt;
  request.arrival = arrival;

  const int64_t max_model_len = model.engine->info().max_model_len;
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  if (prompt_tokens == 0) {
    throw ApiError(400, StrCat(param, ": expected at least one token, got none"), param,
                   "invalid_value");
  }
  if (prompt_tokens >= max_model_len) {
    throw TooLong(param, StrCat("this model's maximum context length is ", max_model_len,
                                " tokens, one of them for the answer; the prompt has ",
                                prompt_tokens, " tokens"));
  }
  auto& max_tokens = request.sampling.max_tokens;
  if (max_tokens && *max_tokens > max_model_len - prompt_tokens) {
    if (!options.max_tokens_is_default) {
      throw TooLong("max_tokens", StrCat("this model's maximum context length is ", max_model_len,
                                         " tokens; the prompt has ", prompt_tokens,
                                         " and max_tokens asks for ", *max_tokens));
    }
    max_tokens = max_model_len - prompt_tokens;
  }
  return request;
}

void WarnUnknown(const GenerationOptions& options) {
  if (options.unknown_fields.empty()) {
    return;
  }
  constexpr size_t kMaxNamed = 8;
  std::string names;
  for (size_t i = 0; i < std::min(kMaxNamed, options.unknown_fields.size()); ++i) {
    names += (i > 0 ? ", " : "") + QuoteForMessage(options.unknown_fields[i]);
  }
  LogWarning(StrCat("request with ", options.unknown_fields.size(),
                    " unknown fields, which are ignored: ", names));
}

std::unique_ptr<PreparedGeneration> MakePrepared(std::shared_ptr<const ServedModel> model,
                                                 const GenerationOptions& options,
                                                 ResponseKind kind) {
  WarnUnknown(options);
  auto prepared = std::make_unique<PreparedGeneration>();
  prepared->head.kind = kind;
  prepared->head.id = NewRequestId(kind == ResponseKind::kChat ? "chatcmpl-" : "cmpl-");
  prepared->head.created = std::chrono::duration_cast<std::chrono::seconds>(
                               std::chrono::system_clock::now().time_since_epoch())
                               .count();
  prepared->head.model = options.model.empty() ? model->names.front() : options.model;
  prepared->options.logprobs = options.sampling.logprobs.has_value();
  prepared->options.top_logprobs = options.sampling.logprobs.value_or(0);
  prepared->options.token_ids = options.return_token_ids;
  prepared->skip_special_tokens = options.sampling.skip_special_tokens;
  prepared->stream = options.stream;
  prepared->include_usage = options.include_usage;
  prepared->continuous_usage = options.continuous_usage;
  prepared->model = std::move(model);
  return prepared;
}

}  // namespace

RequestRules RulesOf(const ServedModel& model) {
  RequestRules rules;
  rules.vocab_size = model.engine->info().vocab_size;
  rules.max_model_len = model.engine->info().max_model_len;
  rules.max_logprobs = model.engine->config().max_logprobs;
  rules.max_choices = model.engine->config().max_choices;
  rules.defaults = model.defaults;
  return rules;
}

const TextCodec& CodecOf(const ServedModel& model, std::string_view param) {
  if (model.text == nullptr) {
    throw ApiError(400, "this model was loaded without a tokenizer: send token ids as prompt",
                   param, "unsupported_value");
  }
  return *model.text;
}

std::string RenderChat(const ServedModel& model, const ChatPrompt& prompt) {
  try {
    return CodecOf(model, "messages").RenderChat(prompt);
  } catch (const Error& error) {
    throw ApiError(400, error.what(), "messages",
                   error.code() == ErrorCode::kUnsupported ? "unsupported_value" : "invalid_value");
  }
}

std::unique_ptr<PreparedGeneration> PrepareCompletion(std::shared_ptr<const ServedModel> model,
                                                      CompletionRequest request,
                                                      TimePoint arrival) {
  const ServedModel& served = *model;
  auto prepared = MakePrepared(std::move(model), request.options, ResponseKind::kCompletion);
  prepared->echo = request.echo;
  prepared->generate = request.generate;
  prepared->options.prompt_logprobs =
      request.options.sampling.prompt_logprobs.has_value() && !request.options.stream;
  for (Prompt& prompt : request.prompts) {
    std::string text;
    if (request.echo && std::holds_alternative<std::string>(prompt)) {
      text = std::get<std::string>(prompt);
    }
    const bool is_text = std::holds_alternative<std::string>(prompt);
    prepared->requests.push_back(
        MakeRequest(served, std::move(prompt), request.options, "prompt", arrival));
    if (request.echo) {
      // A text that was not cut is repeated as it came.
      if (!is_text || request.options.truncate_prompt_tokens) {
        text = CodecOf(served, "echo")
                   .Decode(prepared->requests.back().prompt,
                           request.options.sampling.skip_special_tokens);
      }
      prepared->prompt_texts.push_back(std::move(text));
    }
  }
  return prepared;
}

std::unique_ptr<PreparedGeneration> PrepareChat(std::shared_ptr<const ServedModel> model,
                                                const ChatCompletionRequest& request,
                                                TimePoint arrival) {
  const ServedModel& served = *model;
  auto prepared = MakePrepared(std::move(model), request.options, ResponseKind::kChat);
  prepared->options.prompt_logprobs = request.options.sampling.prompt_logprobs.has_value();
  prepared->requests.push_back(MakeRequest(served, RenderChat(served, request.prompt),
                                           request.options, "messages", arrival));
  return prepared;
}

}  // namespace dualfp
