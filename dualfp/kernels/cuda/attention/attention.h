// The kernels behind PagedAttention on a GPU, and what decides between them.
//
// A kv head's queries of one sequence, [rows, group] of them with group = heads / kv_heads, are one
// list of `queries`: all see the same keys, each up to its own row's position. A sequence of few
// queries, or of one row, is a decode: its keys are cut into pieces that many blocks read at once,
// and the work is as fast as memory. Others are prefills: tiles of queries, each by one block.
// What tensor cores do not take (F32, odd head_dim) goes key by key.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "dualfp/kernels/attention.h"
#include "dualfp/numeric/host_device.h"

namespace dualfp::cuda {

// Of a decode with several rows (drafted tokens).
constexpr int kMostDecodeQueries = 32;

DUALFP_HOST_DEVICE constexpr bool IsDecode(int rows, int group) {
  return rows == 1 || rows * group <= kMostDecodeQueries;
}

// Queries that a decoding block multiplies at once.
constexpr int kQueryTile = 8;
DUALFP_HOST_DEVICE constexpr int QueryTiles(int queries) {
  return (queries + kQueryTile - 1) / kQueryTile;
}
// Of any decode.
constexpr int MostQueryTiles(int group) {
  return QueryTiles(group > kMostDecodeQueries ? group : kMostDecodeQueries);
}

// Sequences of a step: a block finds its work among their lengths.
constexpr int64_t kMostSequences = 1024;
// Counters of the stream that decodes use, one for each sequence, kv head and tile of queries.
constexpr int64_t kAttentionCounters = int64_t{1} << 18;

struct AttentionParams {
  const void* query;
  void* out;
  const void* key;
  const void* value;
  const int32_t* query_start;
  const int32_t* context_length;
  const int32_t* block_table;
  float* partial;          // decodes: [pieces, kQueryTile, head_dim], then their maxima and sums
  float* partial_max_sum;  // [pieces, kQueryTile, 2]
  unsigned* counters;
  int64_t query_row;  // strides, in elements
  int64_t query_head;
  int64_t out_row;
  int64_t out_head;
  int64_t table_row;
  int sequences;
  int tokens;
  int group;
  int kv_heads;
  int head_dim;
  int window;        // 0: none
  float scale_log2;  // of a dot product of cached keys: scale, log2(e) and the keys' scale
  float value_scale;
  DType dtype;  // of query and out
  bool batch_invariant;
};

// Each leaves the rows of the others' sequences alone. `context` names device and stream.
void AttendByKey(const Context& context, DType cache, const AttentionParams& params);
void AttendDecodes(const Context& context, DType cache, const AttentionParams& params);
void AttendPrefills(const Context& context, DType cache, int64_t tiles,
                    const AttentionParams& params);

// Queries of a prefill's tile.
constexpr int PrefillTile(int64_t head_dim) { return head_dim <= 128 ? 128 : 64; }

// Most pieces of a step of decodes, that partial sums are kept of.
int64_t MostDecodePieces(const AttentionShape& shape, const AttentionLimits& limits);

}  // namespace dualfp::cuda
