// Static scales: what a model's linear layers get as inputs, and its attention as keys and values,
// over a text.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "dualfp/kernels/context.h"
#include "dualfp/model/model.h"
#include "dualfp/quant/calibration/magnitude_histogram.h"

namespace dualfp {

struct LayerMagnitudes {
  std::map<const Linear*, MagnitudeHistogram> inputs;
  // Of each decoder layer, keys after RoPE; empty where they were not asked for.
  std::vector<MagnitudeHistogram> keys;
  std::vector<MagnitudeHistogram> values;
};

struct ObserveOptions {
  int64_t context_length = 0;  // tokens of a sample that are read together; longer ones are cut
  bool lm_head = false;        // its input too
  bool kv = false;
  std::function<void(int64_t samples_done)> progress;
};

// Reads every sample of tokens with an empty cache and exact weights. Throws kInvalidArgument
// without tokens, and as Decoder does.
LayerMagnitudes ObserveMagnitudes(const Context& context, const Model& model,
                                  std::span<const std::vector<int32_t>> samples,
                                  const ObserveOptions& options);

// Reads `tokens` exactly, in separate pieces of at most `context_length`, and sets every linear
// layer's Weight::input_scale to max |x| / 448, 1 where all inputs were zero. What exceeds the
// maximum later saturates. Errors as above.
void CalibrateInputScales(const Context& context, Model& model, std::span<const int32_t> tokens,
                          int64_t context_length);

}  // namespace dualfp
