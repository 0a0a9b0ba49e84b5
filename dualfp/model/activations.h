// The tensors between a decoder's inputs and its logits: planned once for the largest step. A step
// takes the first rows of each, so a tensor has one address for life.

#pragma once

#include <cstdint>

#include "dualfp/model/model.h"
#include "dualfp/tensor/buffer.h"
#include "dualfp/tensor/tensor_view.h"

namespace dualfp {

// The dtype of hidden states; weights have their own. CPU kernels compute in F32.
inline constexpr DType kActivationDType = DType::kF32;

struct ActivationTensors {
  TensorView cos_sin;      // F32 [rows, rotary_dim]
  TensorView hidden;       // [rows, hidden]: the residual stream
  TensorView normed;       // [rows, hidden]
  TensorView qkv;          // [rows, (heads + 2 * kv_heads) * head_dim]
  TensorView attention;    // [rows, heads * head_dim]
  TensorView mlp;          // [rows, intermediate]
  TensorView last_hidden;  // [logit_rows, hidden]
  TensorView workspace;    // U8
};

class Activations {
 public:
  Activations(const Model& model, int64_t max_rows, int64_t max_logit_rows,
              int64_t workspace_bytes);

  // The first rows of each; at most as many as were planned for.
  ActivationTensors First(int64_t rows, int64_t logit_rows) const;

  int64_t num_bytes() const { return static_cast<int64_t>(memory_.size()); }

 private:
  ActivationTensors largest_;
  Buffer memory_;
};

}  // namespace dualfp
