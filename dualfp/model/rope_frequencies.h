// Rotary frequencies for every RoPE scaling method, as transformers computes them
// (modeling_rope_utils.py), in the same float operations where the result is sensitive to them.

#pragma once

#include <cstdint>
#include <span>

#include "dualfp/io/hf_config.h"

namespace dualfp {

// True for dynamic (NTK) and longrope: their frequencies follow from a sequence's length.
//
// transformers recomputes them as a sequence grows and leaves the older keys in the cache as they
// are, so its logits depend on how a prompt was cut up. Here a sequence states the length it may
// reach when it starts (rope_length) and keeps those frequencies: its logits equal transformers'
// for one prefill of that length, and do not depend on chunking.
bool RopeDependsOnLength(const RopeConfig& rope);

// Fills inv_freq [rotary_dim / 2]. rope_length matters where RopeDependsOnLength().
void ComputeRopeFrequencies(const RopeConfig& rope, int64_t rope_length, std::span<float> inv_freq);

// What cos and sin are multiplied by: 1 but for yarn and longrope.
float RopeAttentionFactor(const RopeConfig& rope);

// Tokens that a sequence may have: max_position_embeddings, times the factor of linear and dynamic
// scaling; original length times factor for yarn, where that is more.
int64_t MaxContextLength(const ModelConfig& config);

}  // namespace dualfp
