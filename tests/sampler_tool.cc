// Runs the sampler on cases that a Python test wrote and prints what it drew, for comparison with
// independent implementations. One JSON object a line in, one a line out.
//
// In: logits [V], prompt [], output [], params {}, stop_ids [], draws (with seeds 0, 1, ...),
// choice, num_top (-1: no scores). Out: tokens [draws], scores [[id, logprob, rank], ...] of the
// first draw, ok.

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "dualfp/engine/sampling/random.h"
#include "dualfp/engine/sampling/sampler.h"

namespace dualfp {
namespace {

using nlohmann::json;

SamplingParams ReadParams(const json& from) {
  SamplingParams params;
  params.temperature = from.value("temperature", 1.0f);
  params.top_p = from.value("top_p", 1.0f);
  params.top_k = from.value("top_k", int64_t{0});
  params.min_p = from.value("min_p", 0.0f);
  params.presence_penalty = from.value("presence_penalty", 0.0f);
  params.frequency_penalty = from.value("frequency_penalty", 0.0f);
  params.repetition_penalty = from.value("repetition_penalty", 1.0f);
  params.min_tokens = from.value("min_tokens", int64_t{0});
  params.logit_bias =
      from.value("logit_bias", json::array()).get<std::vector<std::pair<int32_t, float>>>();
  return params;
}

json RunCase(const json& from) {
  const auto logits = from.at("logits").get<std::vector<float>>();
  const auto prompt = from.value("prompt", std::vector<int32_t>{});
  const auto output = from.value("output", std::vector<int32_t>{});
  const auto stop_ids = from.value("stop_ids", std::vector<int32_t>{});
  const SamplingParams params = ReadParams(from.at("params"));
  const int draws = from.value("draws", 1);
  const int num_top = from.value("num_top", -1);

  ThreadPool threads(2);
  const auto vocab_size = static_cast<int64_t>(logits.size());
  Sampler sampler(vocab_size, &threads);
  std::vector<SequenceSampler> states;
  for (int draw = 0; draw < draws; ++draw) {
    states.emplace_back(&params, prompt, stop_ids, static_cast<uint64_t>(draw),
                        from.value("choice", 0), vocab_size);
    for (const int32_t token : output) {
      states.back().Append(token);
    }
  }
  std::vector<ScoredToken> scores(num_top + 1);
  std::vector<SampleJob> jobs(draws);
  for (int draw = 0; draw < draws; ++draw) {
    jobs[draw].logits = logits;
    jobs[draw].state = &states[draw];
    if (draw == 0) {
      jobs[draw].scores = scores;
    }
  }
  sampler.Run(jobs);

  json result = {{"tokens", json::array()}, {"scores", json::array()}, {"ok", jobs[0].ok}};
  for (const SampleJob& job : jobs) {
    result["tokens"].push_back(job.token);
  }
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
