// Causal attention over a paged key-value cache, for any mix of prefill chunks and decodes.
//
// The cache of a layer is a pool of blocks of kKvBlockSize tokens; a sequence's block table lists
// its blocks in order, so token p of the sequence lies in block_table[p / 16] at place p % 16.
// How a block lays out its 16 x head_dim keys is the backend's business (KvLayout), known only to
// its WriteKvCache and PagedAttention.

#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "dualfp/kernels/context.h"

namespace dualfp {

inline constexpr int64_t kKvBlockSize = 16;
inline constexpr int64_t kMaxHeadDim = 512;

// Values lie [16, head_dim] in every backend.
struct KvLayout {
  bool transposed_keys = false;  // [head_dim, 16] in a block and kv head, else [16, head_dim]

  std::array<int64_t, 4> KeyShape(int64_t blocks, int64_t kv_heads, int64_t head_dim) const;
  std::array<int64_t, 4> ValueShape(int64_t blocks, int64_t kv_heads, int64_t head_dim) const;
};

// Of the best backend of a kind of device.
const KvLayout& KvLayoutOf(DeviceType device);
std::span<const DType> KvDTypesOf(DeviceType device);

// One layer's cache. F32, F16, BF16, or F8_E4M3 holding value / scale (rounded, saturated at 448),
// as far as the backend lists it. F16 and BF16 saturate at their largest value, so that what is
// cached is finite.
struct PagedKv {
  TensorView key;    // KvLayout::KeyShape(), contiguous
  TensorView value;  // KvLayout::ValueShape(), contiguous
  // Beside F8_E4M3: of all kv heads, or of each, F32 [kv_heads] beside the cache, where those are
  // there (the CPU's kernels only).
  float key_scale = 1.0f;
  float value_scale = 1.0f;
  ConstTensorView key_head_scales;
  ConstTensorView value_head_scales;
};

// The scale of a kv head. Forced inline: a copy that the linker shares would be compiled for one
// instruction set.
[[gnu::always_inline]] inline float KvHeadScale(float all, const ConstTensorView& heads,
                                                int64_t kv_head) {
  return heads.data == nullptr ? all : static_cast<const float*>(heads.data)[kv_head];
}

// Stores this step's keys and values.
struct WriteKvCacheArgs {
  ConstTensorView key;    // activation [tokens, kv_heads, head_dim]; contiguous last axis
  ConstTensorView value;  // like key
  ConstTensorView slot;   // I32 [tokens]: block * 16 + place; -1 stores nothing
  PagedKv cache;
};

void WriteKvCache(const Context& context, const WriteKvCacheArgs& args);

// All that lies between the product that makes q, k and v and attention: the heads of q and k are
// normalised (RmsNorm, where there are weights) and turned (ApplyRotary), keys and values stored
// (WriteKvCache); on a GPU in one pass, with one rounding of what is stored.
struct RotateAndCacheArgs {
  ConstTensorView cos_sin;       // F32 [tokens, 2 * half], from RotaryTable
  TensorView query;              // activation [tokens, heads, head_dim]; in place
  TensorView key;                // activation [tokens, kv_heads, head_dim]; afterwards undefined
  ConstTensorView value;         // like key
  ConstTensorView query_weight;  // F32 [head_dim], or absent
  ConstTensorView key_weight;    // likewise
  float epsilon = 1e-6f;
  ConstTensorView slot;  // as WriteKvCacheArgs'
  PagedKv cache;
};

void RotateAndCache(const Context& context, const RotateAndCacheArgs& args);

// Copies whole blocks of a cache, before anything of the step reads or writes it: target blocks are
// distinct and no block is both a source and a target.
struct CopyKvBlocksArgs {
  ConstTensorView copies;  // I32 [count, 2]: source, target
  TensorView planes;       // U8 [planes, blocks, bytes]: keys and values of all layers
};

void CopyKvBlocks(const Context& context, const CopyKvBlocksArgs& args);

// out[t] = softmax(scale * q[t] . K^T) V over the keys that token t may see: those of its own
// sequence at positions <= its own and, with a window, > its own - window.
//
// Sequence s owns rows [query_start[s], query_start[s + 1]); they are its last tokens, at
// positions context_length[s] - count ... context_length[s] - 1, all stored already.
//
// On a GPU, query_start, context_length and block_table are read while the stream's previous
// kernels run: a copy fills them, not a kernel.
struct PagedAttentionArgs {
  ConstTensorView query;  // activation [tokens, heads, head_dim]; heads is a multiple of kv_heads
  PagedKv cache;
  ConstTensorView query_start;     // I32 [sequences + 1]
  ConstTensorView context_length;  // I32 [sequences]
  ConstTensorView block_table;     // I32 [sequences, max_blocks]
  float scale = 1.0f;
  int64_t sliding_window = 0;  // 0: none
  TensorView out;              // shape and dtype of query
};

struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
};

// The largest step.
struct AttentionLimits {
  int64_t max_rows = 0;
  int64_t max_sequences = 0;
  int64_t max_context = 0;  // tokens of a sequence
  // What a token's keys are cut into depends on its own context alone. The CPU never does
  // otherwise.
  bool batch_invariant = false;
};

// Rows [row_begin, row_end) of one sequence, which one worker attends for one kv head at a time.
struct AttentionItem {
  int32_t sequence = 0;
  int32_t row_begin = 0;
  int32_t row_end = 0;
};

// How a step's attention is cut into work, decided on the host before anything is launched and the
// same in all layers.
struct AttentionPlan {
  std::vector<AttentionItem> items;  // the longest work first
  int64_t workspace_bytes = 0;       // that PagedAttention() wants in context.workspace
  bool batch_invariant = false;      // as the limits said
};

// An empty plan with room for any step within the limits, so that planning one allocates nothing;
// its workspace_bytes are enough for all of them. Throws kUnsupported for a shape that the device's
// attention does not take.
AttentionPlan MakeAttentionPlan(DeviceType device, const AttentionShape& shape,
                                const AttentionLimits& limits);

// Plans a step. The lengths are those of PagedAttentionArgs, in host memory.
void PlanPagedAttention(DeviceType device, const AttentionShape& shape,
                        std::span<const int32_t> query_start,
                        std::span<const int32_t> context_length, AttentionPlan* plan);

// Accumulates in F32 with an online softmax. `plan` is of these lengths and this shape. On the CPU
// over tiles of 64 keys that start at multiples of 64: a token's result is the same, bit for bit,
// whatever else is in the batch, however the prompt is cut into chunks and however many threads
// there are. A GPU computes a sequence's few tokens (a decode) otherwise than the many of a
// prefill, and cuts long contexts by the size of the batch unless it is to be batch_invariant.
void PagedAttention(const Context& context, const PagedAttentionArgs& args,
                    const AttentionPlan& plan);

}  // namespace dualfp
