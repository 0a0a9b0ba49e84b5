// Table look-ups: token embeddings, the rows of a batch whose logits are wanted, and tokens that
// the step before has drawn.

#pragma once

#include "dualfp/kernels/context.h"
#include "dualfp/tensor/weight.h"

namespace dualfp {

// y[t] = weight[token[t]], exact but for the rounding to y's dtype: nested weights are merged,
// outliers included.
struct EmbeddingArgs {
  const Weight* weight = nullptr;  // [vocabulary, width]: plain F16 | BF16 | F32, nested, nested12
  ConstTensorView token;           // I32 [tokens], each in [0, vocabulary)
  TensorView y;                    // activation [tokens, width]
};

void Embedding(const Context& context, const EmbeddingArgs& args);

// y[i] = x[row[i]].
struct GatherRowsArgs {
  ConstTensorView x;    // activation [rows, width]
  ConstTensorView row;  // I32 [count], each in [0, rows)
  TensorView y;         // [count, width], of x's dtype
};

void GatherRows(const Context& context, const GatherRowsArgs& args);

// token[t] = max(previous[source[t]], 0) where source[t] >= 0; the others stay. What was drawn may
// be kNoToken (sample.h), whose row nobody asks about.
struct ResolveTokensArgs {
  ConstTensorView source;    // I32 [tokens], each below `drawn`
  ConstTensorView previous;  // I32 [drawn]
  TensorView token;          // I32 [tokens]
};

void ResolveTokens(const Context& context, const ResolveTokensArgs& args);

}  // namespace dualfp
