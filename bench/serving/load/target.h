// What a benchmark finds out about a server before it begins: its model, its context, and how to
// write prompts of a known number of tokens.

#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "bench/serving/load/openai_stream.h"
#include "dualfp/server/http/http_client.h"

namespace dualfp {

struct HttpReply {
  int status = 0;
  std::string body;
  std::string error;  // why there is no answer
};

// One request, waited for.
HttpReply Fetch(HttpClient& client, HttpCall call);

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// "Authorization: Bearer KEY", or nothing.
HttpHeaders AuthorizationHeaders(const std::string& api_key);

struct Target {
  std::string model;
  int64_t max_model_len = 0;  // 0: the server does not say

  // Token ids of ordinary words, as the server's own /tokenize has them; empty where it has none,
  // and a prompt is then words, each about a token.
  std::vector<int32_t> vocabulary;

  bool exact_lengths() const { return !vocabulary.empty(); }
};

// `model`: by its name, or the server's first. Throws kIo when the server does not answer, and
// kNotFound when it does not have the model.
Target Explore(HttpClient& client, const HttpHeaders& headers, const std::string& model,
               const CompletionOptions& options);

// Random words, the first `shared` of them the same in all prompts.
class PromptWriter {
 public:
  PromptWriter(const Target& target, uint64_t seed, int64_t shared = 0);

  RandomPrompt Write(int64_t tokens);

 private:
  const Target& target_;
  std::mt19937_64 random_;
  uint64_t seed_;
  int64_t shared_;
};

}  // namespace dualfp
