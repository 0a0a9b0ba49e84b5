// From a parsed request to what the engine takes: prompts become tokens, lengths are checked.

#pragma once

#include <memory>

#include "dualfp/server/generation.h"
#include "dualfp/server/openai/openai_request.h"

namespace dualfp {

RequestRules RulesOf(const ServedModel& model);

// Throw ApiError 400, with code context_length_exceeded where the prompt is too long.
std::unique_ptr<PreparedGeneration> PrepareCompletion(std::shared_ptr<const ServedModel> model,
                                                      CompletionRequest request, TimePoint arrival);
std::unique_ptr<PreparedGeneration> PrepareChat(std::shared_ptr<const ServedModel> model,
                                                const ChatCompletionRequest& request,
                                                TimePoint arrival);

// The model's codec; ApiError 400 where it was loaded without a tokenizer.
const TextCodec& CodecOf(const ServedModel& model, std::string_view param);

// The conversation as the template writes it. ApiError 400 where it refuses.
std::string RenderChat(const ServedModel& model, const ChatPrompt& prompt);

}  // namespace dualfp
