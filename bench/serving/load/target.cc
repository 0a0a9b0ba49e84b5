#include "bench/serving/load/target.h"

#include <algorithm>
#include <iterator>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"
#include "dualfp/server/openai/json_writer.h"

namespace dualfp {
namespace {

// Common enough that any tokenizer of English has most of them whole.
constexpr const char* kWords[] = {
    "the",   "of",    "and",   "to",    "in",    "is",    "that",   "it",    "was",    "for",
    "on",    "are",   "with",  "as",    "his",   "they",  "be",     "at",    "one",    "have",
    "this",  "from",  "by",    "hot",   "but",   "some",  "what",   "there", "we",     "can",
    "out",   "other", "were",  "all",   "your",  "when",  "up",     "use",   "word",   "how",
    "said",  "each",  "she",   "which", "do",    "their", "time",   "if",    "will",   "way",
    "about", "many",  "then",  "them",  "would", "write", "like",   "so",    "these",  "her",
    "long",  "make",  "thing", "see",   "him",   "two",   "has",    "look",  "more",   "day",
    "could", "go",    "come",  "did",   "my",    "sound", "no",     "most",  "number", "who",
    "over",  "know",  "water", "than",  "call",  "first", "people", "may",   "down",   "side",
    "been",  "now",   "find",  "any",   "new",   "work",  "part",   "take",  "get",    "place"};
constexpr size_t kNumWords = std::size(kWords);

constexpr int64_t kMaxId = int64_t{1} << 30;

std::vector<int32_t> Vocabulary(HttpClient& client, const HttpHeaders& headers,
                                const std::string& model) {
  std::string text;
  for (const char* word : kWords) {
    text += ' ';
    text += word;
  }
  JsonWriter json;
  json.BeginObject().Key("model").String(model).Key("prompt").String(text);
  json.Key("add_special_tokens").Bool(false).EndObject();
  HttpCall call;
  call.method = "POST";
  call.path = "/tokenize";
  call.headers = headers;
  call.body = json.Take();
  const HttpReply reply = Fetch(client, std::move(call));
  std::vector<int32_t> ids;
  if (reply.status != 200) {
    return ids;
  }
  try {
    const Json answer = ParseJson(reply.body, "/tokenize");
    for (const Json& id : answer.value("tokens", Json::array())) {
      if (id.is_number_unsigned() && id.get<uint64_t>() < kMaxId) {
        ids.push_back(id.get<int32_t>());
      }
    }
  } catch (const Error&) {
    ids.clear();
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace

HttpReply Fetch(HttpClient& client, HttpCall call) {
  HttpReply reply;
  call.on_body = [&](int, std::string_view piece, TimePoint) { reply.body += piece; };
  call.on_end = [&](int status, const std::string& error) {
    reply.status = status;
    reply.error = error;
  };
  client.Send(std::move(call));
  client.Run();
  return reply;
}

HttpHeaders AuthorizationHeaders(const std::string& api_key) {
  return api_key.empty() ? HttpHeaders{} : HttpHeaders{{"Authorization", "Bearer " + api_key}};
}

Target Explore(HttpClient& client, const HttpHeaders& headers, const std::string& model,
               const CompletionOptions& options) {
  HttpCall call;
  call.path = "/v1/models";
  call.headers = headers;
  const HttpReply reply = Fetch(client, std::move(call));
  const std::string server = client.server().ToString();
  Check(reply.error.empty(), ErrorCode::kIo, server, ": ", reply.error);
  Check(reply.status == 200, ErrorCode::kIo, server,
        "/v1/models: ", DescribeRefusal(reply.status, reply.body));

  Target target;
  const Json json = ParseJson(reply.body, server + "/v1/models");
  std::string names;
  for (const JsonFields& entry : JsonFields(json, server + "/v1/models").GetObjects("data")) {
    const std::string id = entry.GetString("id");
    names += StrCat(names.empty() ? "" : ", ", QuoteForMessage(id));
    if (target.model.empty() && (model.empty() || id == model)) {
      target.model = id;
      target.max_model_len = entry.FindInt("max_model_len", 1, int64_t{1} << 40).value_or(0);
    }
  }
  Check(!target.model.empty(), ErrorCode::kNotFound, server, " does not have the model ",
        QuoteForMessage(model), "; it has ", names.empty() ? "none" : names);
  if (!options.chat()) {
    target.vocabulary = Vocabulary(client, headers, target.model);
  }
  return target;
}

PromptWriter::PromptWriter(const Target& target, uint64_t seed, int64_t shared)
    : target_(target), random_(seed), seed_(seed), shared_(shared) {}

RandomPrompt PromptWriter::Write(int64_t tokens) {
  RandomPrompt prompt;
  std::mt19937_64 prefix(seed_ + 1);
  for (int64_t i = 0; i < tokens; ++i) {
    std::mt19937_64& random = i < shared_ ? prefix : random_;
    if (target_.exact_lengths()) {
      prompt.ids.push_back(target_.vocabulary[random() % target_.vocabulary.size()]);
    } else {
      prompt.text += StrCat(i == 0 ? "" : " ", kWords[random() % kNumWords]);
    }
  }
  return prompt;
}

}  // namespace dualfp
