// Table look-ups: token embeddings, and the rows of a batch whose logits are wanted.

#pragma once

#include "dualfp/kernels/context.h"
#include "dualfp/tensor/weight.h"

namespace dualfp {

// y[t] = weight[token[t]], exact: nested weights are merged, outliers included.
struct EmbeddingArgs {
  const Weight* weight = nullptr;  // [vocabulary, width]: plain F16 | BF16 | F32, nested, nested12
  ConstTensorView token;           // I32 [tokens], each in [0, vocabulary)
  TensorView y;                    // F32 [tokens, width]
};

void Embedding(const Context& context, const EmbeddingArgs& args);

// y[i] = x[row[i]].
struct GatherRowsArgs {
  ConstTensorView x;    // F32 [rows, width]
  ConstTensorView row;  // I32 [count], each in [0, rows)
  TensorView y;         // F32 [count, width]
};

void GatherRows(const Context& context, const GatherRowsArgs& args);

}  // namespace dualfp
