// What token scores say of a model's quality, with confidence intervals.

#pragma once

#include <cstdint>

#include "dualfp/quant/bootstrap.h"
#include "dualfp/quant/evaluate.h"

namespace dualfp {

// Over all scored tokens.
struct Quality {
  Estimate loss;           // nats a token
  Estimate perplexity;     // exp(loss)
  Estimate bits_per_byte;  // of the text that the tokens spell
};

// The same against a reference, token by token.
struct Deviation {
  Estimate mean_kl;            // nats, KL(reference || subject)
  Estimate tail_kl;            // its kTailQuantile
  Estimate top1_agreement;     // share of tokens whose likeliest is the reference's
  Estimate perplexity_change;  // ratio of perplexities, less one
};
inline constexpr double kTailQuantile = 0.99;

// `groups` are the windows' scored tokens, which spell `num_bytes`. Throws kInvalidArgument where
// the scores are not as many.
Quality QualityOf(const GroupBootstrap& groups, const TokenScores& scores, int64_t num_bytes);
Deviation DeviationOf(const GroupBootstrap& groups, const TokenScores& scores,
                      const TokenScores& reference);

}  // namespace dualfp
