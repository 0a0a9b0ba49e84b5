#include "bench/serving/load/openai_stream.h"

#include <chrono>
#include <limits>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"
#include "dualfp/server/openai/json_writer.h"

namespace dualfp {
namespace {

constexpr size_t kMaxRefusalBytes = 4096;
constexpr double kMaxTokens = 1e12;

double SecondsBetween(TimePoint from, TimePoint to) {
  return std::chrono::duration<double>(to - from).count();
}

int64_t Tokens(const JsonFields& usage, std::string_view key, int64_t otherwise) {
  return usage.FindInt(key, 0, static_cast<int64_t>(kMaxTokens)).value_or(otherwise);
}

// Whether a choice of a chunk brings a token. A chat's first chunk may bring the role alone.
bool BringsToken(const Json& choice) {
  const auto delta = choice.find("delta");
  if (delta == choice.end() || !delta->is_object()) {
    return true;
  }
  const auto content = delta->find("content");
  const bool empty = content == delta->end() || !content->is_string() ||
                     content->get_ref<const std::string&>().empty();
  return !(empty && delta->contains("role"));
}

}  // namespace

bool CompletionOptions::chat() const {
  constexpr std::string_view kChat = "/chat/completions";
  return endpoint.size() >= kChat.size() &&
         endpoint.compare(endpoint.size() - kChat.size(), kChat.size(), kChat) == 0;
}

std::string CompletionBody(const CompletionOptions& options, const RandomPrompt& prompt,
                           int64_t output_tokens) {
  JsonWriter json;
  json.BeginObject();
  json.Key("model").String(options.model);
  if (options.chat()) {
    json.Key("messages").BeginArray().BeginObject();
    json.Key("role").String("user").Key("content").String(prompt.text);
    json.EndObject().EndArray();
    json.Key("max_completion_tokens").Int(output_tokens);
  } else {
    json.Key("prompt");
    if (prompt.ids.empty()) {
      json.String(prompt.text);
    } else {
      json.BeginArray();
      for (const int32_t id : prompt.ids) {
        json.Int(id);
      }
      json.EndArray();
    }
    json.Key("max_tokens").Int(output_tokens);
  }
  json.Key("temperature").Number(options.temperature);
  json.Key("stream").Bool(true);
  json.Key("stream_options").BeginObject().Key("include_usage").Bool(true).EndObject();
  if (options.ignore_eos) {
    json.Key("ignore_eos").Bool(true);
  }
  if (!options.precision.empty()) {
    json.Key("precision").String(options.precision);
  }
  json.EndObject();
  return json.Take();
}

StreamedAnswer::StreamedAnswer(RequestRecord* record, TimePoint sent)
    : record_(record), sent_(sent), events_([this](std::string_view data) { OnEvent(data); }) {}

void StreamedAnswer::OnBody(int status, std::string_view piece, TimePoint at) {
  if (status != 200) {
    refusal_ += piece.substr(0, kMaxRefusalBytes - std::min(kMaxRefusalBytes, refusal_.size()));
    return;
  }
  now_ = at;
  try {
    events_.Feed(piece);
  } catch (const Error& error) {
    record_->error = error.what();
  }
}

void StreamedAnswer::OnEvent(std::string_view data) {
  if (data == "[DONE]") {
    done_ = true;
    return;
  }
  const Json json = ParseJson(data, "event");
  const JsonFields event(json, "event");
  if (const Json* error = event.FindRaw("error"); error != nullptr && !error->is_null()) {
    record_->error = DescribeRefusal(200, data);
    return;
  }
  if (const auto usage = event.FindObject("usage")) {
    usage_seen_ = true;
    record_->prompt_tokens = Tokens(*usage, "prompt_tokens", record_->prompt_tokens);
    record_->output_tokens = Tokens(*usage, "completion_tokens", 0);
    if (const auto computed = usage->FindObject("tokens_by_precision")) {
      record_->tokens_by_precision = {};
      for (const char* part : {"prompt", "completion"}) {
        const auto tokens = computed->FindObject(part);
        for (int i = 0; tokens && i < kNumPrecisionClasses; ++i) {
          record_->tokens_by_precision[i] +=
              Tokens(*tokens, PrecisionClassName(static_cast<PrecisionClass>(i)), 0);
        }
      }
    }
  }
  const Json* choices = event.FindRaw("choices");
  if (choices == nullptr || !choices->is_array() || choices->empty() ||
      !BringsToken(choices->front())) {
    return;
  }
  if (chunks_++ == 0) {
    record_->ttft = SecondsBetween(sent_, now_);
  } else {
    record_->itl.push_back(SecondsBetween(last_, now_));
  }
  last_ = now_;
  record_->latency = SecondsBetween(sent_, now_);
}

void StreamedAnswer::OnEnd(int status, const std::string& error) {
  if (!usage_seen_) {
    record_->output_tokens = chunks_;
  }
  if (!record_->error.empty()) {
    return;
  }
  if (!error.empty()) {
    record_->error = error;
  } else if (status != 200) {
    record_->error = DescribeRefusal(status, refusal_);
  } else if (chunks_ == 0) {
    record_->error = "the stream brought no token";
  } else if (!done_) {
    record_->error = "the stream ended without [DONE]";
  }
}

std::string DescribeRefusal(int status, std::string_view body) {
  std::string head = status == 200 ? "error in the stream" : StrCat("HTTP ", status);
  try {
    const Json json = ParseJson(body, "answer");
    const auto error = json.find("error");
    if (error != json.end()) {
      const Json& message = error->is_object() ? error->value("message", Json()) : *error;
      if (message.is_string()) {
        return StrCat(head, ": ", QuoteForMessage(message.get_ref<const std::string&>()));
      }
    }
  } catch (const Error&) {
    // Not JSON: some proxy's page, of which the status says enough.
  }
  return head;
}

}  // namespace dualfp
