// One sequence on a decoder: what a command needs of an engine.

#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "dualfp/model/decoder.h"

namespace dualfp {

class Session {
 public:
  // A cache for `length` tokens, which RoPE scaling takes as the sequence's length too.
  Session(Decoder& decoder, DType cache_dtype, int64_t length);

  int64_t position() const { return position_; }

  // The logits of a batch of rows, F32 [rows, vocabulary], valid during the call.
  using LogitSink = std::function<void(std::span<const float> logits, int64_t rows)>;

  // Appends tokens to the sequence, in steps of at most the decoder's limit. `sink` gets the logits
  // of all rows, step by step; without one, only the last row's are computed.
  void Append(const Context& context, std::span<const int32_t> tokens, const PrecisionPlan& plan,
              const LogitSink& sink = nullptr);

  // Logits of the last token appended.
  std::span<const float> last_logits() const { return last_logits_; }

 private:
  Decoder& decoder_;
  KvCache cache_;
  std::vector<int32_t> blocks_;
  StepBatch batch_;
  int64_t length_;
  int64_t position_ = 0;
  std::vector<float> logits_;
  std::span<const float> last_logits_;
};

// How far two precisions' logits are apart over the same tokens.
struct LogitComparison {
  int64_t tokens = 0;
  double mean_kl = 0;  // nats, KL(first || second) of the next-token distributions
  double largest_kl = 0;
  double largest_difference = 0;  // of any logit
  double deviation = 0;           // standard deviation of the first's logits
  double top1_agreement = 0;      // share of positions with the same most likely token
};

LogitComparison ComparePrecisions(const Context& context, Decoder& decoder, DType cache_dtype,
                                  std::span<const int32_t> tokens, const PrecisionPlan& first,
                                  const PrecisionPlan& second);

}  // namespace dualfp
