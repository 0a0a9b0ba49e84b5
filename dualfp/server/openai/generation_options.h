// The part of a request that chat and plain completions share.

#pragma once

#include "dualfp/server/openai/openai_request.h"
#include "dualfp/server/openai/request_fields.h"

namespace dualfp {

// All but max_tokens, logprobs and the prompt, which differ between the two.
GenerationOptions ReadGenerationOptions(RequestFields& fields, const RequestRules& rules);

// Reads `key` as the limit on completion tokens; 0 is allowed where the caller says so.
std::optional<int64_t> ReadMaxTokens(RequestFields& fields, std::string_view key, int64_t min);

// The conversation of /v1/chat/completions and of /tokenize. Parts of type "text" are joined by
// line feeds; other parts are refused.
ChatPrompt ReadChatPrompt(RequestFields& fields);

}  // namespace dualfp
