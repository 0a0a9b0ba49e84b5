// Runs the sampler on cases that a Python test wrote and prints what it drew, for comparison with
// independent implementations. One JSON object a line in, one a line out.
//
// In: logits [V], prompt [], output [], params {}, stop_ids [], draws (with seeds 0, 1, ...),
// choice, num_top (-1: no scores). Out: tokens [draws], scores [[id, logprob, rank], ...] of the
// first draw, ok.

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "dualfp/kernels/random.h"
#include "dualfp/kernels/sample.h"

namespace dualfp {
namespace {

using nlohmann::json;

SampleRow ReadRow(const json& from) {
  SampleRow row;
  row.temperature = from.value("temperature", 1.0f);
  row.top_p = from.value("top_p", 1.0f);
  row.top_k = from.value("top_k", int64_t{0});
  row.min_p = from.value("min_p", 0.0f);
  row.presence_penalty = from.value("presence_penalty", 0.0f);
  row.frequency_penalty = from.value("frequency_penalty", 0.0f);
  row.repetition_penalty = from.value("repetition_penalty", 1.0f);
  return row;
}

json RunCase(const json& from) {
  const auto logits = from.at("logits").get<std::vector<float>>();
  const auto prompt = from.value("prompt", std::vector<int32_t>{});
  const auto output = from.value("output", std::vector<int32_t>{});
  const auto stop_ids = from.value("stop_ids", std::vector<int32_t>{});
  const json& params = from.at("params");
  const int draws = from.value("draws", 1);
  const int num_top = from.value("num_top", -1);

  ThreadPool threads(2);
  const auto vocab_size = static_cast<int64_t>(logits.size());
  std::vector<TokenBias> bias;
  for (const auto& [token, value] :
       params.value("logit_bias", json::array()).get<std::vector<std::pair<int32_t, float>>>()) {
    bias.push_back({token, value});
  }
  std::vector<int32_t> counts(vocab_size, 0);
  for (const int32_t token : prompt) {
    counts[token] = kInPrompt;
  }
  for (const int32_t token : output) {
    ++counts[token];
  }
  const SampleState state{.banned = stop_ids.data(),
                          .num_banned = static_cast<int64_t>(stop_ids.size()),
                          .bias = bias.data(),
                          .num_bias = static_cast<int64_t>(bias.size()),
                          .counts = counts.data()};
  std::vector<SampleRow> rows(draws, ReadRow(params));
  for (int draw = 0; draw < draws; ++draw) {
    rows[draw].state = 0;
    rows[draw].seed = static_cast<uint64_t>(draw);
    rows[draw].choice = from.value("choice", 0);
    rows[draw].position = output.size();
    rows[draw].ban = std::ssize(output) < params.value("min_tokens", int64_t{0}) ? 1 : 0;
  }
  rows[0].num_scores = num_top + 1;
  std::vector<ScoredToken> scores(num_top + 1);
  std::vector<int32_t> tokens(draws);
  Context context{.threads = &threads};
  std::vector<char> scratch(SampleWorkspaceBytes(context, vocab_size));
  context.workspace = {scratch.data(), DType::kU8, {std::ssize(scratch)}};
  const int32_t no_input = 0;
  Sample(context, {.logits = {logits.data(), DType::kF32, {1, vocab_size}},
                   .token_ids = {&no_input, DType::kI32, {1}},
                   .rows = rows,
                   .states = {&state, 1},
                   .tokens = tokens,
                   .scores = scores});

  json result = {{"tokens", tokens}, {"scores", json::array()}, {"ok", tokens[0] != kNoToken}};
  for (const ScoredToken& score : scores) {
    result["scores"].push_back({score.token_id, score.logprob, score.rank});
  }
  return result;
}

}  // namespace
}  // namespace dualfp

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    const auto parsed = nlohmann::json::parse(line);
    if (parsed.contains("philox")) {
      const auto words = parsed.at("philox").get<std::vector<uint32_t>>();
      std::cout << nlohmann::json(dualfp::Philox4x32({words[0], words[1], words[2], words[3]},
                                                     {words[4], words[5]}))
                << "\n";
    } else {
      std::cout << dualfp::RunCase(parsed) << "\n";
    }
  }
  return 0;
}
