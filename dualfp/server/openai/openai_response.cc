#include "dualfp/server/openai/openai_response.h"

#include <algorithm>

#include "dualfp/server/openai/json_writer.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

// JSON has no infinities; vLLM's number for "impossible".
constexpr float kMinLogprob = -9999.0f;

float Finite(float logprob) { return std::max(logprob, kMinLogprob); }

void WriteStopReason(const std::variant<std::monostate, int32_t, std::string>& reason,
                     JsonWriter* json) {
  json->Key("stop_reason");
  if (const auto* id = std::get_if<int32_t>(&reason)) {
    json->Int(*id);
  } else if (const auto* text = std::get_if<std::string>(&reason)) {
    json->String(*text);
  } else {
    json->Null();
  }
}

void WriteFinishReason(FinishReason reason, JsonWriter* json) {
  json->Key("finish_reason");
  reason == FinishReason::kNone ? json->Null() : json->String(FinishReasonName(reason));
}

void WriteByPrecision(std::string_view key, const TokensByPrecision& tokens, JsonWriter* json) {
  json->Key(key).BeginObject();
  for (int i = 0; i < kNumPrecisionClasses; ++i) {
    if (tokens[i] > 0) {
      json->Key(PrecisionClassName(static_cast<PrecisionClass>(i))).Int(tokens[i]);
    }
  }
  json->EndObject();
}

void WriteUsage(const Usage& usage, JsonWriter* json) {
  json->Key("usage").BeginObject();
  json->Key("prompt_tokens").Int(usage.prompt_tokens);
  json->Key("completion_tokens").Int(usage.completion_tokens);
  json->Key("total_tokens").Int(usage.prompt_tokens + usage.completion_tokens);
  json->Key("prompt_tokens_details").BeginObject();
  json->Key("cached_tokens").Int(usage.cached_tokens).EndObject();
  json->Key("tokens_by_precision").BeginObject();
  WriteByPrecision("prompt", usage.prompt_by_precision, json);
  WriteByPrecision("completion", usage.completion_by_precision, json);
  json->EndObject().EndObject();
}

void WriteBytes(std::string_view bytes, JsonWriter* json) {
  json->Key("bytes").BeginArray();
  for (const char c : bytes) {
    json->Int(static_cast<unsigned char>(c));
  }
  json->EndArray();
}

void WriteChatEntry(const LogprobEntry& entry, JsonWriter* json) {
  json->Key("token").String(TokenText(entry.bytes));
  json->Key("logprob").Number(Finite(entry.logprob));
  WriteBytes(entry.bytes, json);
}

void WriteChatLogprobs(const std::vector<PositionEntry>& positions, int top, JsonWriter* json) {
  json->Key("logprobs").BeginObject().Key("content").BeginArray();
  for (const PositionEntry& position : positions) {
    json->BeginObject();
    WriteChatEntry(position.chosen, json);
    json->Key("top_logprobs").BeginArray();
    for (size_t i = 0; i < position.top.size() && i < static_cast<size_t>(top); ++i) {
      json->BeginObject();
      WriteChatEntry(position.top[i], json);
      json->EndObject();
    }
    json->EndArray().EndObject();
  }
  json->EndArray().Key("refusal").Null().EndObject();
}

void WriteTopObject(const PositionEntry& position, int top, JsonWriter* json) {
  if (!position.has_logprob) {
    json->Null();
    return;
  }
  json->BeginObject();
  std::vector<std::string> written;
  const auto write = [&](const LogprobEntry& entry) {
    std::string text = TokenText(entry.bytes);
    if (std::find(written.begin(), written.end(), text) == written.end()) {
      json->Key(text).Number(Finite(entry.logprob));
      written.push_back(std::move(text));
    }
  };
  for (size_t i = 0; i < position.top.size() && i < static_cast<size_t>(top); ++i) {
    write(position.top[i]);
  }
  write(position.chosen);
  json->EndObject();
}

void WriteCompletionLogprobs(const std::vector<PositionEntry>& positions, int top,
                             int64_t* text_offset, JsonWriter* json) {
  json->Key("logprobs").BeginObject();
  json->Key("text_offset").BeginArray();
  for (const PositionEntry& position : positions) {
    json->Int(*text_offset);
    *text_offset += position.characters.value_or(CountCharacters(position.chosen.bytes));
  }
  json->EndArray().Key("token_logprobs").BeginArray();
  for (const PositionEntry& position : positions) {
    position.has_logprob ? json->Number(Finite(position.chosen.logprob)) : json->Null();
  }
  json->EndArray().Key("tokens").BeginArray();
  for (const PositionEntry& position : positions) {
    json->String(TokenText(position.chosen.bytes));
  }
  json->EndArray().Key("top_logprobs").BeginArray();
  for (const PositionEntry& position : positions) {
    WriteTopObject(position, top, json);
  }
  json->EndArray().EndObject();
}

void WritePromptEntry(const LogprobEntry& entry, JsonWriter* json) {
  json->Key(std::to_string(entry.token_id)).BeginObject();
  json->Key("logprob").Number(Finite(entry.logprob));
  json->Key("rank").Int(entry.rank);
  json->Key("decoded_token").String(TokenText(entry.bytes)).EndObject();
}

// vLLM's form: for each prompt token null or {"<id>": {"logprob", "rank", "decoded_token"}}.
void WritePromptLogprobs(const std::vector<PositionEntry>& positions, JsonWriter* json) {
  json->Key("prompt_logprobs").BeginArray();
  for (const PositionEntry& position : positions) {
    if (!position.has_logprob) {
      json->Null();
      continue;
    }
    json->BeginObject();
    bool chosen_written = false;
    for (const LogprobEntry& entry : position.top) {
      WritePromptEntry(entry, json);
      chosen_written |= entry.token_id == position.chosen.token_id;
    }
    if (!chosen_written) {
      WritePromptEntry(position.chosen, json);
    }
    json->EndObject();
  }
  json->EndArray();
}

void WriteHead(const ResponseHead& head, std::string_view object, JsonWriter* json) {
  json->Key("id").String(head.id);
  json->Key("object").String(object);
  json->Key("created").Int(head.created);
  json->Key("model").String(head.model);
}

void WriteLogprobs(ResponseKind kind, const ResponseOptions& options,
                   const std::vector<PositionEntry>& positions, int64_t* text_offset,
                   JsonWriter* json) {
  if (!options.logprobs) {
    json->Key("logprobs").Null();
  } else if (kind == ResponseKind::kChat) {
    WriteChatLogprobs(positions, options.top_logprobs, json);
  } else {
    WriteCompletionLogprobs(positions, options.top_logprobs, text_offset, json);
  }
}

void WriteIds(std::string_view key, const std::vector<int32_t>& ids, JsonWriter* json) {
  json->Key(key).BeginArray();
  for (const int32_t id : ids) {
    json->Int(id);
  }
  json->EndArray();
}

}  // namespace

int64_t CountCharacters(std::string_view bytes) {
  return std::count_if(bytes.begin(), bytes.end(), [](char c) { return !IsUtf8Continuation(c); });
}

std::string TokenText(std::string_view bytes) {
  if (IsValidUtf8(bytes)) {
    return std::string(bytes);
  }
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text = "bytes:";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
  }
  return text;
}

std::string WriteResponse(const ResponseHead& head, const ResponseOptions& options,
                          const std::vector<ResponseChoice>& choices, const Usage& usage,
                          const std::vector<std::vector<PositionEntry>>& prompt_logprobs) {
  const bool chat = head.kind == ResponseKind::kChat;
  JsonWriter json;
  json.BeginObject();
  WriteHead(head, chat ? "chat.completion" : "text_completion", &json);
  json.Key("choices").BeginArray();
  for (const ResponseChoice& choice : choices) {
    json.BeginObject().Key("index").Int(choice.index);
    if (chat) {
      json.Key("message").BeginObject().Key("role").String("assistant");
      json.Key("content").String(choice.text).EndObject();
    } else {
      json.Key("text").String(choice.text);
    }
    int64_t text_offset = 0;
    WriteLogprobs(head.kind, options, choice.logprobs, &text_offset, &json);
    WriteFinishReason(choice.finish_reason, &json);
    WriteStopReason(choice.stop_reason, &json);
    if (options.token_ids) {
      WriteIds("token_ids", choice.token_ids, &json);
      if (!chat) {
        WriteIds("prompt_token_ids", choice.prompt_token_ids, &json);
      }
    }
    if (options.prompt_logprobs && !chat) {
      const size_t choices_per_prompt = choices.size() / prompt_logprobs.size();
      WritePromptLogprobs(prompt_logprobs[choice.index / choices_per_prompt], &json);
    }
    json.EndObject();
  }
  json.EndArray();
  WriteUsage(usage, &json);
  if (options.prompt_logprobs && chat) {
    WritePromptLogprobs(prompt_logprobs.front(), &json);
  }
  if (options.token_ids && chat) {
    WriteIds("prompt_token_ids", choices.front().prompt_token_ids, &json);
  }
  json.EndObject();
  return json.Take();
}

ChunkWriter::ChunkWriter(const ResponseHead& head, const ResponseOptions& options, bool usage_field)
    : kind_(head.kind), options_(options), usage_field_(usage_field) {
  JsonWriter json;
  json.BeginObject();
  WriteHead(head, kind_ == ResponseKind::kChat ? "chat.completion.chunk" : "text_completion",
            &json);
  json.Key("choices").BeginArray();
  head_ = "data: " + json.Take();
}

void ChunkWriter::AppendDelta(const ResponseChoice& delta, bool first, const Usage* usage,
                              int64_t* text_offset, std::string* out) const {
  const bool chat = kind_ == ResponseKind::kChat;
  JsonWriter json;
  json.BeginObject().Key("index").Int(delta.index);
  if (chat) {
    json.Key("delta").BeginObject();
    if (first) {
      json.Key("role").String("assistant");
    }
    json.Key("content").String(delta.text).EndObject();
  } else {
    json.Key("text").String(delta.text);
  }
  WriteLogprobs(kind_, options_, delta.logprobs, text_offset, &json);
  WriteFinishReason(delta.finish_reason, &json);
  if (delta.finish_reason != FinishReason::kNone) {
    WriteStopReason(delta.stop_reason, &json);
  }
  if (options_.token_ids) {
    WriteIds("token_ids", delta.token_ids, &json);
    if (first && !chat) {
      WriteIds("prompt_token_ids", delta.prompt_token_ids, &json);
    }
  }
  json.EndObject().EndArray();
  if (options_.token_ids && first && chat) {
    WriteIds("prompt_token_ids", delta.prompt_token_ids, &json);
  }
  if (usage != nullptr) {
    WriteUsage(*usage, &json);
  } else if (usage_field_) {
    json.Key("usage").Null();
  }
  json.EndObject();
  *out += head_;
  *out += json.text();
  *out += "\n\n";
}

void ChunkWriter::AppendUsage(const Usage& usage, std::string* out) const {
  JsonWriter json;
  json.EndArray();
  WriteUsage(usage, &json);
  json.EndObject();
  *out += head_;
  *out += json.text();
  *out += "\n\n";
}

void AppendErrorEvent(std::string_view error_json, std::string* out) {
  *out += "data: ";
  *out += error_json;
  *out += "\n\n";
}

void AppendDoneEvent(std::string* out) { *out += "data: [DONE]\n\n"; }

}  // namespace dualfp
