// Logits to a token.
//
// For each row, in vLLM's order:
//   1. logprobs, if asked for, are taken of the raw logits
//   2. min_tokens   EOS and stop ids become impossible while output is shorter
//   3. logit_bias   is added
//   4. penalties    repetition (prompt and output), then frequency and presence (output)
//   5. temperature  0: the most likely token, lowest id first; done
//   6. min_p        drops tokens less likely than min_p times the most likely
//   7. top_k        drops those below the k-th most likely; ties with it stay
//   8. top_p        keeps the fewest most likely whose probability is at least top_p
//   9. one draw by inverse distribution function, from UniformDraw(seed, choice, position)
// A row's token depends on nothing but its logits, its state and its position.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/engine/request.h"

namespace dualfp {

struct ScoredToken {
  int32_t token_id = -1;
  float logprob = 0.0f;
  int32_t rank = 0;  // 1 + number of other tokens at least as likely
};

// What sampling remembers of one choice.
class SequenceSampler {
 public:
  SequenceSampler() = default;

  // `params`, `prompt` and `stop_ids` (EOS and the request's own) outlive this object.
  SequenceSampler(const SamplingParams* params, std::span<const int32_t> prompt,
                  std::span<const int32_t> stop_ids, uint64_t seed, int choice, int64_t vocab_size);

  // A token became part of the output.
  void Append(int32_t token);

  const SamplingParams& params() const { return *params_; }

 private:
  friend class Sampler;
  static constexpr int32_t kInPrompt = 1 << 30;

  const SamplingParams* params_ = nullptr;
  std::span<const int32_t> stop_ids_;
  uint64_t seed_ = 0;
  uint32_t choice_ = 0;
  int64_t length_ = 0;  // output tokens

  // With penalties only: for each token, how often it is in the output, plus kInPrompt where it is
  // in the prompt; and the tokens for which that is not 0.
  std::vector<int32_t> counts_;
  std::vector<int32_t> seen_;
};

struct SampleJob {
  std::span<const float> logits;
  const SequenceSampler* state = nullptr;  // null: only score `token`

  int32_t token = -1;  // drawn, or given

  // Where not empty: the token's score, and then the most likely ones, as many as fit.
  std::span<ScoredToken> scores;

  // False when there is nothing to draw from: a NaN or infinite logit, or no possible token.
  bool ok = false;
};

class Sampler {
 public:
  // `threads` may be null; else rows are spread over it.
  Sampler(int64_t vocab_size, ThreadPool* threads);

  // Allocates nothing.
  void Run(std::span<SampleJob> jobs);

 private:
  struct Candidate {
    float weight;
    int32_t token;
  };
  struct Scratch {
    std::vector<float> logits;   // processed
    std::vector<float> weights;  // exp((logit - max) / temperature)
    std::vector<double> sums;    // of blocks of weights
    std::vector<float> order;    // for selection
    std::vector<Candidate> candidates;
  };

  void RunOne(SampleJob* job, Scratch* scratch) const;
  std::span<const float> Process(const SampleJob& job, Scratch* scratch) const;
  int32_t Draw(std::span<const float> logits, float max, const SequenceSampler& state,
               Scratch* scratch) const;
  static int32_t DrawNucleus(std::span<const float> weights, double total, double top_p,
                             double uniform, std::vector<Candidate>* candidates);
  static void Score(const SampleJob& job, float max);

  int64_t vocab_size_;
  ThreadPool* threads_;
  std::vector<Scratch> scratch_;  // one a thread
};

}  // namespace dualfp
