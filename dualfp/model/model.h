// A model's weights in memory, in the one layout that the decoder runs on:
//   * q, k and v rows are one weight [(heads + 2 * kv_heads) * head_dim, hidden], in that order;
//   * gate and up rows are one weight [2 * intermediate, hidden], interleaved (g0, u0, g1, u1, ...)
//     as GEMM's kSiluMul wants them; projections keep scales of their own (tensor/row_parts.h);
//   * norm weights, biases are F32.
// A checkpoint may hold q/k/v and gate/up fused or separate; both end here.

#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/io/hf_config.h"
#include "dualfp/kernels/nest.h"
#include "dualfp/model/kv_cache.h"
#include "dualfp/tensor/buffer.h"
#include "dualfp/tensor/weight.h"
#include "dualfp/tensor/weight_scheme.h"

namespace dualfp {

// One process's part of a model split over `size` processes (tensor parallelism): qkv, gate_up and
// lm_head by output rows, o and down by input columns.
struct ModelShard {
  int rank = 0;
  int size = 1;
};

// Rows of a checkpoint tensor and where they lie in a Linear: source row row_begin + i becomes row
// dest_begin + i * dest_step.
struct LinearPart {
  std::string tensor;  // without ".weight"
  int64_t tensor_rows = 0;
  int64_t tensor_columns = 0;
  int64_t row_begin = 0;
  int64_t rows = 0;
  int64_t column_begin = 0;
  int64_t columns = 0;
  int64_t dest_begin = 0;
  int64_t dest_step = 1;
};

struct Linear {
  std::string name;  // "model.layers.0.self_attn.qkv_proj"
  Weight weight;
  ConstTensorView bias;  // F32 [n], or absent
  WeightScheme scheme;
  // What its input goes through at FP8, as the checkpoint or the scheme wants it.
  ActivationQuant activation_quant = ActivationQuant::kDynamicPerToken;
  std::vector<LinearPart> parts;  // in the order of weight.parts
  Buffer storage;                 // planes, or plain values, and scales
  Buffer input_scale;             // behind weight.input_scale
  OutlierBuffers outliers;        // behind weight.outliers
};

struct LayerWeights {
  ConstTensorView input_norm;           // F32 [hidden]
  ConstTensorView post_attention_norm;  // F32 [hidden]
  ConstTensorView q_norm;               // F32 [head_dim], or absent
  ConstTensorView k_norm;
  Linear qkv;
  Linear o;
  Linear gate_up;
  Linear down;
  KvScales kv_scales;

  std::vector<Linear*> linears() { return {&qkv, &o, &gate_up, &down}; }
  std::vector<const Linear*> linears() const { return {&qkv, &o, &gate_up, &down}; }
};

// What became of one Linear.
struct LinearReport {
  std::string name;
  std::vector<std::string> tensors;  // in the checkpoint
  bool in_layer = false;             // of a decoder layer; else the embedding or lm_head
  int64_t n = 0;
  int64_t k = 0;
  DType source_dtype = DType::kF16;
  WeightScheme scheme;
  ScaleGranularity scale_granularity = ScaleGranularity::kNone;  // of Weight::scales
  ActivationQuant activation_quant = ActivationQuant::kDynamicPerToken;
  DType stored_dtype = DType::kF16;  // of Weight::values
  int64_t num_bytes = 0;             // planes, scales and outliers
  int64_t outliers = 0;              // beyond +-1.75 (nested) or remainders (nested12), found
  int64_t rounded = 0;               // weights that FP16 (nested) or BF16 (nested12) do not hold
  double largest_relative_rounding = 0;
  std::string exception;  // why it stayed plain although nesting was asked for; else empty
};

struct LoadReport {
  std::vector<LinearReport> linears;  // in the order of the model; a tied lm_head is not listed
  std::vector<std::string> unused;    // tensors of the checkpoint that the model has no place for
  int64_t checkpoint_bytes = 0;       // 0 for dummy weights
  int64_t weight_bytes = 0;           // everything in memory
  double seconds = 0;

  int64_t LayerLinears() const;        // linear layers of all decoder layers
  int64_t NestedLayerLinears() const;  // those of them that are nested or nested12
  int64_t Fp8LayerLinears() const;     // those of them that can compute at FP8
};

struct Model {
  ModelConfig config;  // tie_word_embeddings: as the weights are
  ModelShard shard;
  Linear embedding;  // [vocabulary, hidden]
  std::vector<LayerWeights> layers;
  ConstTensorView final_norm;  // F32 [hidden]
  Linear lm_head;              // [vocabulary, hidden]; shares the embedding's storage where tied
  // Whether lm_head may compute at FP8, where its weight can. It bounds the quality of every token,
  // so it does not unless asked for.
  bool fp8_lm_head = false;
  LoadReport report;
  std::vector<Buffer> vectors;  // storage of norms and biases

  Model() = default;
  Model(Model&&) = default;
  Model& operator=(Model&&) = default;
  Model(const Model&) = delete;

  int64_t heads() const { return config.num_attention_heads / shard.size; }
  int64_t kv_heads() const { return config.num_key_value_heads / shard.size; }
  int64_t intermediate() const { return config.intermediate_size / shard.size; }

  // Whether lm_head computes at `precision`, or exactly instead.
  bool HeadComputesAt(Precision precision) const;

  // A KV cache that fits this model.
  KvCacheConfig KvCacheFor(DType dtype, int64_t num_blocks) const;

  // Overwrites a loaded linear weight in place (reinforcement learning: new weights every few
  // minutes). `values` is the checkpoint's tensor NAME.weight, F32, F16 or BF16, in full. Planes
  // and scales keep their memory; only the outlier list may grow. No step may run meanwhile.
  // Throws kNotFound for a tensor that no linear weight came from, kInvalidArgument for a wrong
  // shape or dtype, a NaN or infinity; a tensor that fails is left partly written.
  void Refill(const std::string& tensor, const ConstTensorView& values, ThreadPool& threads);
};

}  // namespace dualfp
