// Static activation scales: one per linear layer, from the largest input that it saw over a text.

#pragma once

#include <cstdint>
#include <span>

#include "dualfp/kernels/context.h"
#include "dualfp/model/model.h"

namespace dualfp {

// Reads `tokens` at FP16 in separate pieces of at most `context_length` and sets every linear
// layer's Weight::input_scale to max |x| / 448, 1 where all inputs were zero. What exceeds the
// maximum later saturates. Throws kInvalidArgument without tokens, and as Decoder does.
void CalibrateInputScales(const Context& context, Model& model, std::span<const int32_t> tokens,
                          int64_t context_length);

}  // namespace dualfp
