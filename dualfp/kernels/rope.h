// Rotary position embedding (Su et al., arXiv 2104.09864), in the half-rotation convention of
// Hugging Face: element i of a head turns together with element i + rotary_dim / 2.
//
// The angles of a step are computed once (RotaryTable) and used by every layer (ApplyRotary).

#pragma once

#include "dualfp/kernels/context.h"

namespace dualfp {

// cos_sin[t, i] = scale * cos(angle), cos_sin[t, half + i] = scale * sin(angle) with
// angle = position[t] * inv_freq[row[t], i], rounded to F32 like transformers does.
struct RotaryTableArgs {
  ConstTensorView position;  // I32 [tokens]
  ConstTensorView row;       // I32 [tokens], which set of frequencies
  ConstTensorView inv_freq;  // F32 [sets, half]
  float scale = 1.0f;        // attention factor of yarn and longrope
  TensorView cos_sin;        // F32 [tokens, 2 * half]
};

void RotaryTable(const Context& context, const RotaryTableArgs& args);

// Rotates the first 2 * half elements of every head in place, the others stay.
struct ApplyRotaryArgs {
  ConstTensorView cos_sin;  // F32 [tokens, 2 * half], from RotaryTable
  TensorView x;             // activation [tokens, heads, head_dim]; the last axis is contiguous
};

void ApplyRotary(const Context& context, const ApplyRotaryArgs& args);

}  // namespace dualfp
