#include <algorithm>
#include <cmath>
#include <limits>

#include "dualfp/kernels/random.h"
#include "dualfp/kernels/reference/ops.h"
#include "dualfp/kernels/sample_scratch.h"

namespace dualfp::reference {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool Usable(std::span<const float> logits) {
  const bool has_nan = std::ranges::any_of(logits, [](float x) { return std::isnan(x); });
  return !has_nan && std::isfinite(*std::ranges::max_element(logits));
}

void Process(const SampleRow& row, const SampleState& state, std::span<float> logits) {
  if (row.ban != 0) {
    for (int64_t i = 0; i < state.num_banned; ++i) {
      logits[state.banned[i]] = -kInfinity;
    }
  }
  for (int64_t i = 0; i < state.num_bias; ++i) {
    logits[state.bias[i].token] += state.bias[i].bias;
  }
  for (size_t token = 0; state.counts != nullptr && token < logits.size(); ++token) {
    const int32_t count = state.counts[token] & ~kInPrompt;
    float& logit = logits[token];
    if (state.counts[token] != 0) {
      logit = logit > 0.0f ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    }
    if (count > 0) {
      logit -= row.frequency_penalty * static_cast<float>(count);
      logit -= row.presence_penalty;
    }
  }
}

// By sorting: in double, and one token after the other.
int32_t Draw(const SampleRow& row, std::span<const float> logits, const SampleScratch& scratch) {
  using Candidate = SampleScratch::Candidate;
  const float max = *std::ranges::max_element(logits);
  const std::span<Candidate> sorted(scratch.candidates, logits.size());
  for (size_t token = 0; token < logits.size(); ++token) {
    sorted[token] = {logits[token], static_cast<int32_t>(token)};
  }
  std::ranges::sort(sorted, [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  });
  const auto size = static_cast<int64_t>(logits.size());
  const float lowest =
      row.top_k > 0 && row.top_k < size ? sorted[row.top_k - 1].weight : -kInfinity;
  const auto weight = [&](float logit) {
    const double w = std::exp((static_cast<double>(logit) - max) / row.temperature);
    return logit >= lowest && w >= row.min_p ? w : 0.0;
  };
  double total = 0.0;
  for (const Candidate& candidate : sorted) {
    total += weight(candidate.weight);
  }
  // The fewest whose share is top_p; all where it is 1.
  double kept = 0.0;
  size_t count = 0;
  while (count < sorted.size() && (count == 0 || row.top_p == 1.0f || kept < row.top_p * total)) {
    kept += weight(sorted[count++].weight);
  }
  std::ranges::sort(sorted.first(count), {}, &Candidate::token);
  const double target = UniformDraw(row.seed, row.choice, row.position) * kept;
  double running = 0.0;
  int32_t last = kNoToken;
  for (const Candidate& candidate : sorted.first(count)) {
    const double w = weight(candidate.weight);
    if (w > 0.0) {
      last = candidate.token;
      running += w;
      if (running > target) {
        return last;
      }
    }
  }
  return last;
}

void Score(std::span<const float> logits, int32_t chosen, std::span<ScoredToken> scores,
           const SampleScratch& scratch) {
  using Candidate = SampleScratch::Candidate;
  const double max = *std::ranges::max_element(logits);
  double sum = 0.0;
  for (const float logit : logits) {
    sum += std::exp(logit - max);
  }
  const double log_sum = max + std::log(sum);
  const auto logprob = [&](int32_t token) { return static_cast<float>(logits[token] - log_sum); };
  const auto rank =
      std::ranges::count_if(logits, [&](float logit) { return logit >= logits[chosen]; });
  scores[0] = {chosen, logprob(chosen), static_cast<int32_t>(rank)};
  const std::span<Candidate> sorted(scratch.candidates, logits.size());
  for (size_t token = 0; token < logits.size(); ++token) {
    sorted[token] = {logits[token], static_cast<int32_t>(token)};
  }
  std::ranges::sort(sorted, [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  });
  for (size_t i = 1; i < scores.size(); ++i) {
    const int32_t token = sorted[i - 1].token;
    scores[i] = {token, logprob(token), static_cast<int32_t>(i)};
  }
}

int32_t SampleOne(std::span<const float> raw, size_t drawable, const SampleRow& row,
                  const SampleState* state, std::span<ScoredToken> scores,
                  const SampleScratch& scratch) {
  if (!Usable(raw)) {
    return kNoToken;
  }
  int32_t token = row.token;
  if (token < 0) {
    const std::span<float> all(scratch.logits, raw.size());
    std::ranges::copy(raw, all.begin());
    if (state != nullptr) {
      Process(row, *state, all);
    }
    const std::span<const float> logits = all.first(drawable);
    if (!Usable(logits)) {
      return kNoToken;
    }
    token = row.temperature < kGreedyTemperature
                ? static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin())
                : Draw(row, logits, scratch);
  }
  if (!scores.empty()) {
    Score(raw, token, scores, scratch);
  }
  return token;
}

}  // namespace

void Sample(const Context& context, const SampleArgs& args) {
  ForEachSampleRow(context, args, SampleOne);
}

}  // namespace dualfp::reference
