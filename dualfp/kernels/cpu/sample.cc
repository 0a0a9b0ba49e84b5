// Sampling in passes over the vocabulary that the compiler turns into vector code.

#include "dualfp/kernels/cpu/sample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "dualfp/kernels/exp.h"
#include "dualfp/kernels/random.h"
#include "dualfp/kernels/sample_scratch.h"

namespace dualfp::cpu {
namespace {

using Candidate = SampleScratch::Candidate;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Independent partial results, so that the compiler may use vectors without reordering a sum.
constexpr int64_t kLanes = 16;

// Tokens whose weights are summed together, for a two-level search.
constexpr int64_t kSumBlock = 1024;

struct Extremes {
  float max = -kInfinity;
  bool has_nan = false;
};

Extremes Scan(std::span<const float> values) {
  std::array<float, kLanes> max;
  std::array<int32_t, kLanes> nans{};
  max.fill(-kInfinity);
  const auto size = static_cast<int64_t>(values.size());
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float value = values[i + lane];
      max[lane] = value > max[lane] ? value : max[lane];
      nans[lane] |= value != value;
    }
  }
  for (; i < size; ++i) {
    max[0] = std::max(max[0], values[i]);
    nans[0] |= values[i] != values[i];
  }
  return {*std::max_element(max.begin(), max.end()),
          std::any_of(nans.begin(), nans.end(), [](int32_t nan) { return nan != 0; })};
}

double Sum(std::span<const float> values) {
  std::array<double, kLanes> lanes{};
  const auto size = static_cast<int64_t>(values.size());
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += values[i + lane];
    }
  }
  for (; i < size; ++i) {
    lanes[0] += values[i];
  }
  double sum = 0.0;
  for (const double lane : lanes) {
    sum += lane;
  }
  return sum;
}

int32_t FirstEqual(std::span<const float> values, float wanted) {
  return static_cast<int32_t>(std::find(values.begin(), values.end(), wanted) - values.begin());
}

void Exponentiate(std::span<const float> logits, float max, float scale, std::span<float> weights) {
  const auto size = static_cast<int64_t>(logits.size());
  const float* __restrict in = logits.data();
  float* __restrict out = weights.data();
  for (int64_t i = 0; i < size; ++i) {
    out[i] = ExpNonPositive((in[i] - max) * scale);
  }
}

void DropBelow(std::span<const float> logits, float lowest_logit, float lowest_weight,
               std::span<float> weights) {
  const auto size = static_cast<int64_t>(logits.size());
  const float* __restrict in = logits.data();
  float* __restrict out = weights.data();
  for (int64_t i = 0; i < size; ++i) {
    out[i] *= static_cast<float>((out[i] >= lowest_weight) & (in[i] >= lowest_logit));
  }
}

// The k-th largest value, 1 <= k <= size. Scratch holds as many values.
float KthLargest(std::span<const float> values, int64_t k, float* scratch) {
  // The k-th largest of the maxima of short runs is a lower bound, and few values exceed it.
  constexpr int64_t kRun = 64;
  const auto size = static_cast<int64_t>(values.size());
  float bound = -kInfinity;
  if (k <= size / kRun) {
    float* end = scratch;
    for (int64_t begin = 0; begin + kRun <= size; begin += kRun) {
      *end++ = *std::max_element(&values[begin], &values[begin] + kRun);
    }
    std::nth_element(scratch, scratch + (k - 1), end, std::greater<>());
    bound = scratch[k - 1];
  }
  float* end = std::copy_if(values.begin(), values.end(), scratch,
                            [bound](float value) { return value >= bound; });
  std::nth_element(scratch, scratch + (k - 1), end, std::greater<>());
  return scratch[k - 1];
}

// The weights of each block of kSumBlock tokens. Returns their sum.
double SumBlocks(std::span<const float> weights, std::span<double> sums) {
  const auto size = static_cast<int64_t>(weights.size());
  double total = 0.0;
  for (int64_t begin = 0; begin < size; begin += kSumBlock) {
    const double sum = Sum(weights.subspan(begin, std::min(size - begin, kSumBlock)));
    sums[begin / kSumBlock] = sum;
    total += sum;
  }
  return total;
}

// The first token at which the running sum passes uniform * total.
int32_t DrawInOrder(std::span<const float> weights, std::span<const double> sums, double total,
                    double uniform) {
  const double target = uniform * total;
  const auto size = static_cast<int64_t>(weights.size());
  double below = 0.0;
  int32_t last = -1;  // the last possible token, should rounding leave the target unreached
  for (int64_t begin = 0; begin < size; begin += kSumBlock) {
    const int64_t end = std::min(size, begin + kSumBlock);
    const double sum = sums[begin / kSumBlock];
    if (sum <= 0.0) {
      continue;
    }
    double running = below;
    if (below + sum > target || end == size) {
      for (int64_t i = begin; i < end; ++i) {
        running += weights[i];
        last = weights[i] > 0.0f ? static_cast<int32_t>(i) : last;
        if (weights[i] > 0.0f && running > target) {
          return last;
        }
      }
    }
    below += sum;
  }
  if (last < 0) {
    for (int64_t i = size - 1; i >= 0 && last < 0; --i) {
      last = weights[i] > 0.0f ? static_cast<int32_t>(i) : -1;
    }
  }
  return last;
}

// By top_p.
int32_t DrawNucleus(std::span<const float> weights, double total, double top_p, double uniform,
                    Candidate* candidates) {
  // All tokens lighter than (1 - p) * total / V weigh less than (1 - p) * total together: the
  // nucleus lies among the others, which are few unless the distribution is flat.
  const auto size = static_cast<int64_t>(weights.size());
  const auto floor = static_cast<float>(0.999 * (1.0 - top_p) * total / static_cast<double>(size));
  Candidate* begin = candidates;
  Candidate* end = candidates;
  for (int64_t i = 0; i < size; ++i) {
    if (weights[i] > 0.0f && weights[i] >= floor) {
      *end++ = {weights[i], static_cast<int32_t>(i)};
    }
  }
  // The last token of the nucleus, by repeated halving instead of a sort: the heavier half is
  // either all inside, or has the end of the nucleus in it.
  const auto heavier = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  };
  double nucleus = 0.0;  // weight of the candidates before `begin`
  while (end - begin > 1) {
    Candidate* middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, heavier);
    double half = 0.0;
    for (const Candidate* candidate = begin; candidate != middle; ++candidate) {
      half += candidate->weight;
    }
    if (nucleus + half >= top_p * total) {
      end = middle;
    } else {
      nucleus += half;
      begin = middle;
    }
  }
  const Candidate last = *begin;
  nucleus += last.weight;

  double running = 0.0;
  int32_t token = -1;
  for (int64_t i = 0; i < size; ++i) {
    if (weights[i] > last.weight || (weights[i] == last.weight && i <= last.token)) {
      token = static_cast<int32_t>(i);
      running += weights[i];
      if (running > uniform * nucleus) {
        break;
      }
    }
  }
  return token;
}

void Score(std::span<const float> logits, float max, int32_t chosen,
           std::span<ScoredToken> scores) {
  const auto size = static_cast<int64_t>(logits.size());
  std::array<double, kLanes> lanes{};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    std::array<float, kLanes> weights;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      weights[lane] = ExpNonPositive(logits[i + lane] - max);
    }
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += weights[lane];
    }
  }
  for (; i < size; ++i) {
    lanes[0] += ExpNonPositive(logits[i] - max);
  }
  double sum = 0.0;
  for (const double lane : lanes) {
    sum += lane;
  }
  const double log_sum = max + std::log(sum);

  const auto score = [&](int32_t token, int32_t rank) {
    return ScoredToken{token, static_cast<float>(logits[token] - log_sum), rank};
  };
  const float own = logits[chosen];
  const auto rank = std::count_if(logits.begin(), logits.end(), [&](float l) { return l >= own; });
  scores[0] = score(chosen, static_cast<int32_t>(rank));

  // The tops are few: an insertion into a sorted list, which most tokens are too small for.
  const std::span<ScoredToken> top = scores.subspan(1);
  size_t filled = 0;
  for (int64_t token = 0; token < size && !top.empty(); ++token) {
    const float logit = logits[token];
    if (filled == top.size()) {
      if (logit <= logits[top.back().token_id]) {
        continue;
      }
      --filled;
    }
    size_t at = filled++;
    for (; at > 0 && logits[top[at - 1].token_id] < logit; --at) {
      top[at] = top[at - 1];
    }
    top[at].token_id = static_cast<int32_t>(token);
  }
  for (size_t at = 0; at < filled; ++at) {
    top[at] = score(top[at].token_id, static_cast<int32_t>(at + 1));
  }
}

// The logits that are drawn from: the row's own where nothing changes them, else in scratch.
std::span<const float> Process(std::span<const float> raw, const SampleRow& row,
                               const SampleState* state, const SampleScratch& scratch) {
  if (state == nullptr || (row.ban == 0 && state->num_bias == 0 && state->counts == nullptr)) {
    return raw;
  }
  const std::span<float> logits(scratch.logits, raw.size());
  std::copy(raw.begin(), raw.end(), logits.begin());
  for (int64_t i = 0; row.ban != 0 && i < state->num_banned; ++i) {
    logits[state->banned[i]] = -kInfinity;
  }
  for (int64_t i = 0; i < state->num_bias; ++i) {
    logits[state->bias[i].token] += state->bias[i].bias;
  }
  if (state->counts != nullptr) {
    for (size_t token = 0; token < logits.size(); ++token) {
      const int32_t seen = state->counts[token];
      if (seen == 0) {
        continue;
      }
      float& logit = logits[token];
      const int32_t count = seen & ~kInPrompt;
      logit = logit > 0.0f ? logit / row.repetition_penalty : logit * row.repetition_penalty;
      if (count > 0) {
        logit -= row.frequency_penalty * static_cast<float>(count);
        logit -= row.presence_penalty;
      }
    }
  }
  return logits;
}

int32_t Draw(std::span<const float> logits, float max, const SampleRow& row,
             const SampleScratch& scratch) {
  const auto size = static_cast<int64_t>(logits.size());
  const std::span<float> weights(scratch.weights, logits.size());
  // Dividing by the temperature after the maximum is gone: 0 * huge is 0, never infinity.
  Exponentiate(logits, max, 1.0f / row.temperature, weights);

  // Dropped tokens get no weight. The most likely token has weight 1, so min_p is a threshold.
  const float lowest =
      row.top_k > 0 && row.top_k < size ? KthLargest(logits, row.top_k, scratch.order) : -kInfinity;
  if (row.min_p > 0.0f || lowest > -kInfinity) {
    DropBelow(logits, lowest, row.min_p, weights);
  }
  const std::span<double> sums(scratch.sums, (logits.size() + kSumBlock - 1) / kSumBlock);
  const double total = SumBlocks(weights, sums);
  const double uniform = UniformDraw(row.seed, row.choice, row.position);
  return row.top_p < 1.0f ? DrawNucleus(weights, total, row.top_p, uniform, scratch.candidates)
                          : DrawInOrder(weights, sums, total, uniform);
}

int32_t SampleOne(std::span<const float> raw, size_t drawable, const SampleRow& row,
                  const SampleState* state, std::span<ScoredToken> scores,
                  const SampleScratch& scratch) {
  const Extremes extremes = Scan(raw);
  if (extremes.has_nan || !std::isfinite(extremes.max)) {
    return kNoToken;
  }
  int32_t token = row.token;
  if (token < 0) {
    const std::span<const float> logits = Process(raw, row, state, scratch).first(drawable);
    const bool scanned = logits.data() == raw.data() && drawable == raw.size();
    const float max = scanned ? extremes.max : Scan(logits).max;
    if (!std::isfinite(max)) {
      return kNoToken;
    }
    token = row.temperature < kGreedyTemperature ? FirstEqual(logits, max)
                                                 : Draw(logits, max, row, scratch);
  }
  if (!scores.empty()) {
    Score(raw, extremes.max, token, scores);
  }
  return token;
}

}  // namespace

void Sample(const Context& context, const SampleArgs& args) {
  ForEachSampleRow(context, args, SampleOne);
}

}  // namespace dualfp::cpu
