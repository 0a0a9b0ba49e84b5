#include "dualfp/engine/sampling/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "dualfp/base/check.h"
#include "dualfp/engine/sampling/random.h"

namespace dualfp {
namespace {

constexpr float kGreedyTemperature = 1e-5f;  // vLLM's threshold
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Independent partial results, so that the compiler may use vectors without reordering a sum.
constexpr int64_t kLanes = 16;

// Tokens whose weights are summed together, for a two-level search.
constexpr int64_t kSumBlock = 1024;

// e^x for x <= 0, within 2 ulp; 0 below -87. Clamped by masks, as comparisons of floats (which may
// trap) and selections keep GCC from making vector code, which std::exp would as well. Range
// reduction and polynomial are Cephes' expf (Moshier).
inline float ExpNonPositive(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const auto magnitude = static_cast<int32_t>(std::bit_cast<uint32_t>(x) & 0x7fffffffu);
  const auto limit = std::bit_cast<int32_t>(87.0f);
  const int32_t beyond = (limit - magnitude) >> 31;  // all bits where |x| > 87, else none
  const float clamped = -std::bit_cast<float>((magnitude & ~beyond) | (limit & beyond));
  const float shifted = clamped * 1.44269504088896341f + kMagic;
  const float n = shifted - kMagic;
  float r = clamped - n * 0.693359375f;
  r -= n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kMagic);
  return p * std::bit_cast<float>(((exponent + 127) << 23) & ~beyond);
}

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

// The k-th largest value, 1 <= k <= size.
float KthLargest(std::span<const float> values, int64_t k, std::vector<float>* scratch) {
  // The k-th largest of the maxima of short runs is a lower bound, and few values exceed it.
  constexpr int64_t kRun = 64;
  const auto size = static_cast<int64_t>(values.size());
  float bound = -kInfinity;
  if (k <= size / kRun) {
    scratch->clear();
    for (int64_t begin = 0; begin + kRun <= size; begin += kRun) {
      scratch->push_back(*std::max_element(&values[begin], &values[begin] + kRun));
    }
    std::nth_element(scratch->begin(), scratch->begin() + (k - 1), scratch->end(),
                     std::greater<>());
    bound = (*scratch)[k - 1];
  }
  scratch->clear();
  for (const float value : values) {
    if (value >= bound) {
      scratch->push_back(value);
    }
  }
  std::nth_element(scratch->begin(), scratch->begin() + (k - 1), scratch->end(), std::greater<>());
  return (*scratch)[k - 1];
}

bool HasPenalties(const SamplingParams& params) {
  return params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f ||
         params.repetition_penalty != 1.0f;
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

}  // namespace

SequenceSampler::SequenceSampler(const SamplingParams* params, std::span<const int32_t> prompt,
                                 std::span<const int32_t> stop_ids, uint64_t seed, int choice,
                                 int64_t vocab_size)
    : params_(params), stop_ids_(stop_ids), seed_(seed), choice_(static_cast<uint32_t>(choice)) {
  if (!HasPenalties(*params)) {
    return;
  }
  counts_.assign(vocab_size, 0);
  seen_.reserve(std::min<int64_t>(
      vocab_size, static_cast<int64_t>(prompt.size()) + params->max_tokens.value_or(vocab_size)));
  for (const int32_t token : prompt) {
    if (counts_[token] == 0) {
      counts_[token] = kInPrompt;
      seen_.push_back(token);
    }
  }
}

void SequenceSampler::Append(int32_t token) {
  ++length_;
  if (!counts_.empty()) {
    if (counts_[token] == 0) {
      seen_.push_back(token);
    }
    ++counts_[token];
  }
}

Sampler::Sampler(int64_t vocab_size, ThreadPool* threads)
    : vocab_size_(vocab_size),
      threads_(threads),
      scratch_(threads == nullptr ? 1 : threads->num_threads()) {
  for (Scratch& scratch : scratch_) {
    scratch.logits.resize(vocab_size);
    scratch.weights.resize(vocab_size);
    scratch.sums.resize((vocab_size + kSumBlock - 1) / kSumBlock);
    scratch.order.reserve(vocab_size);
    scratch.candidates.reserve(vocab_size);
  }
}

void Sampler::Run(std::span<SampleJob> jobs) {
  for (const SampleJob& job : jobs) {
    CheckInternal(static_cast<int64_t>(job.logits.size()) == vocab_size_, "a row of ",
                  job.logits.size(), " logits for a vocabulary of ", vocab_size_);
  }
  const auto run = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      RunOne(&jobs[i], &scratch_[thread]);
    }
  };
  if (threads_ == nullptr || jobs.size() <= 1) {
    run(0, static_cast<int64_t>(jobs.size()), 0);
  } else {
    // std::ref: a std::function of a reference needs no allocation.
    threads_->ParallelFor(static_cast<int64_t>(jobs.size()), 1, std::ref(run));
  }
}

void Sampler::RunOne(SampleJob* job, Scratch* scratch) const {
  job->ok = false;
  const Extremes raw = Scan(job->logits);
  if (raw.has_nan || !std::isfinite(raw.max)) {
    return;
  }
  if (job->state != nullptr) {
    const std::span<const float> logits = Process(*job, scratch);
    const float max = logits.data() == job->logits.data() ? raw.max : Scan(logits).max;
    if (!std::isfinite(max)) {
      return;
    }
    job->token = job->state->params().temperature < kGreedyTemperature
                     ? FirstEqual(logits, max)
                     : Draw(logits, max, *job->state, scratch);
  }
  if (!job->scores.empty()) {
    Score(*job, raw.max);
  }
  job->ok = true;
}

std::span<const float> Sampler::Process(const SampleJob& job, Scratch* scratch) const {
  const SequenceSampler& state = *job.state;
  const SamplingParams& params = state.params();
  const bool too_short = state.length_ < params.min_tokens;
  if (!too_short && params.logit_bias.empty() && state.counts_.empty()) {
    return job.logits;
  }
  std::span<float> logits(scratch->logits);
  std::copy(job.logits.begin(), job.logits.end(), logits.begin());
  if (too_short) {
    for (const int32_t token : state.stop_ids_) {
      logits[token] = -kInfinity;
    }
  }
  for (const auto& [token, bias] : params.logit_bias) {
    logits[token] += bias;
  }
  for (const int32_t token : state.seen_) {
    float& logit = logits[token];
    const int32_t count = state.counts_[token] & ~SequenceSampler::kInPrompt;
    logit = logit > 0.0f ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (count > 0) {
      logit -= params.frequency_penalty * static_cast<float>(count);
      logit -= params.presence_penalty;
    }
  }
  return logits;
}

int32_t Sampler::Draw(std::span<const float> logits, float max, const SequenceSampler& state,
                      Scratch* scratch) const {
  const SamplingParams& params = state.params();
  std::span<float> weights(scratch->weights);
  // Dividing by the temperature after the maximum is gone: 0 * huge is 0, never infinity.
  Exponentiate(logits, max, 1.0f / params.temperature, weights);

  // Dropped tokens get no weight. The most likely token has weight 1, so min_p is a threshold.
  const float lowest = params.top_k > 0 && params.top_k < vocab_size_
                           ? KthLargest(logits, params.top_k, &scratch->order)
                           : -kInfinity;
  if (params.min_p > 0.0f || lowest > -kInfinity) {
    DropBelow(logits, lowest, params.min_p, weights);
  }

  const double total = SumBlocks(weights, scratch->sums);
  const double uniform =
      UniformDraw(state.seed_, state.choice_, static_cast<uint64_t>(state.length_));
  return params.top_p < 1.0f
             ? DrawNucleus(weights, total, params.top_p, uniform, &scratch->candidates)
             : DrawInOrder(weights, scratch->sums, total, uniform);
}

int32_t Sampler::DrawNucleus(std::span<const float> weights, double total, double top_p,
                             double uniform, std::vector<Candidate>* candidates) {
  // All tokens lighter than (1 - p) * total / V weigh less than (1 - p) * total together: the
  // nucleus lies among the others, which are few unless the distribution is flat.
  const auto size = static_cast<int64_t>(weights.size());
  const auto floor = static_cast<float>(0.999 * (1.0 - top_p) * total / static_cast<double>(size));
  candidates->clear();
  for (int64_t i = 0; i < size; ++i) {
    if (weights[i] > 0.0f && weights[i] >= floor) {
      candidates->push_back({weights[i], static_cast<int32_t>(i)});
    }
  }
  // The last token of the nucleus, by repeated halving instead of a sort: the heavier half is
  // either all inside, or has the end of the nucleus in it.
  const auto heavier = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  };
  auto begin = candidates->begin();
  auto end = candidates->end();
  double nucleus = 0.0;  // weight of the candidates before `begin`
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, heavier);
    double half = 0.0;
    for (auto candidate = begin; candidate != middle; ++candidate) {
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

void Sampler::Score(const SampleJob& job, float max) {
  const std::span<const float> logits = job.logits;
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
  const float own = logits[job.token];
  const auto rank = std::count_if(logits.begin(), logits.end(), [&](float l) { return l >= own; });
  job.scores[0] = score(job.token, static_cast<int32_t>(rank));

  // The tops are few: an insertion into a sorted list, which most tokens are too small for.
  const std::span<ScoredToken> top = job.scores.subspan(1);
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

}  // namespace dualfp
