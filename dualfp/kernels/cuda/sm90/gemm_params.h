// What the Hopper GEMM kernels take: one struct by value, read through constant memory.
// Y[M,N] = X[M,K] · W[N,K]ᵀ computed as Yᵀ = W · Xᵀ: the weights' rows are the 64-row side of
// wgmma, the tokens its column side, so that a few tokens cost a few columns.

#pragma once

#include <cuda.h>

#include <cstdint>

#include "dualfp/kernels/cuda/nested12_planes.h"
#include "dualfp/numeric/host_device.h"
#include "dualfp/numeric/nested.h"
#include "dualfp/tensor/row_parts.h"

namespace dualfp::sm90 {

enum class OutputType : int { kF16, kBf16, kF32 };

// y = activation(acc * alpha * x_scale * w_scale + bias) + residual, per element.
struct Epilogue {
  float alpha = 1.0f;
  const float* x_scale = nullptr;  // [M] (stride 1) or [1] (stride 0); nullptr = 1
  int x_scale_stride = 0;
  const float* w_scale = nullptr;  // [N] (stride 1) or [1] (stride 0); nullptr = 1
  int w_scale_stride = 0;
  const float* bias = nullptr;     // [N]
  const void* residual = nullptr;  // [M, N] (or [M, N/2] with silu_mul), type of y
  int64_t residual_stride = 0;     // elements between rows
  void* y = nullptr;               // [M, N] or [M, N/2]
  int64_t y_stride = 0;            // elements between rows
  OutputType y_type = OutputType::kF16;
  bool silu_mul = false;  // rows of W are g0, u0, g1, u1, ...: y = silu(g) * u
};

// A nested weight's outliers (tensor/weight.h): acc += value * factor * X[token, column].
struct Outliers {
  const int64_t* index = nullptr;  // [count] row * K + column, ascending
  const float* value = nullptr;    // [count]
  int count = 0;
  float factor = 1.0f;      // 1 / Epilogue::alpha
  const void* x = nullptr;  // as the copy engine sees it: F16, or permuted E4M3 codes
  int64_t x_stride = 0;     // elements between rows
};

// For DecodeNested12 to BF16: the signs of two weights.
constexpr uint32_t kNested12SignMask = 0x80008000;

// kE4m3Promoted: scales that change along K; nullptr = 1. Where parts of the weight have blocks of
// their own, they begin at multiples of 16 rows, in W and in a block alike (interleaved parts: 8 in
// a block), so that the two rows of a lane share a scale.
struct BlockScales {
  const float* w = nullptr;  // [rows of blocks, ceil(K/128)]: row parts.BlockRow(n) is row n's
  RowParts parts;
  int w_stride = 0;          // ceil(K/128)
  const float* x = nullptr;  // [ceil(K/128), x_stride], of each token and 128 of K
  int x_stride = 0;          // >= M, even; rows are aligned to 8 bytes
};

// How the CTAs of a cluster divide the work: share_x neighbouring weight tiles by share_w
// neighbouring token tiles, the K of each tile divided among `split` CTAs. CTAs with the same token
// tile each load a part of X and multicast it to the others; likewise W. Rank in the cluster =
// split_rank + split * (x_rank + share_x * w_rank).
struct ClusterShape {
  int split = 1;
  int share_x = 1;
  int share_w = 1;

  DUALFP_HOST_DEVICE constexpr int size() const { return split * share_x * share_w; }
};

// Divides by a number that the host knows: a division costs about a hundred cycles where every CTA
// waits for it.
struct Divisor {
  uint32_t value = 1;
  uint32_t reciprocal = 1u << 31;  // 2^31 / value, rounded up

  Divisor() = default;
  explicit Divisor(int divisor)
      : value(static_cast<uint32_t>(divisor)),
        reciprocal(static_cast<uint32_t>(((uint64_t{1} << 31) + value - 1) / value)) {}

  // Of 0 <= dividend.
  DUALFP_HOST_DEVICE int Quotient(int dividend) const {
    const uint32_t d = static_cast<uint32_t>(dividend);
    const auto q = static_cast<uint32_t>((uint64_t{d} + d) * reciprocal >> 32);
    return static_cast<int>(q - (q * value > d ? 1 : 0));  // at most one too large
  }
};

constexpr int kMostClusterSize = 8;  // what every device with clusters offers
constexpr int kMostSlots = 160;
constexpr int kMostGpcs = 16;
constexpr uint32_t kLaunchNumbers = 1 << 23;  // before they begin again

// A GPC's slots, the first of them in the walk over tiles, and how many have work (the others'
// CTAs are idle): one word, since each access to constants that nobody has read yet takes long.
struct GpcSlots {
  uint32_t word = 0;

  GpcSlots() = default;
  DUALFP_HOST_DEVICE explicit GpcSlots(uint32_t w) : word(w) {}
  GpcSlots(int slots, int first, int busy)
      : word(static_cast<uint32_t>(slots | first << 8 | busy << 16)) {}

  DUALFP_HOST_DEVICE uint32_t slots() const { return word & 0xFF; }
  DUALFP_HOST_DEVICE uint32_t first() const { return word >> 8 & 0xFF; }
  DUALFP_HOST_DEVICE uint32_t busy() const { return word >> 16; }
};

// How the CTAs of a persistent kernel take slots (gpc_placement.cuh), and how launches that share a
// workspace are told apart. Counters are zero when a workspace is made.
struct GpcPlacement {
  uint32_t* started =
      nullptr;                 // CTAs so far, of all launches of this kind; nullptr: nothing counts
  uint32_t* taken = nullptr;   // [gpcs] slots, of this launch
  uint32_t* placed = nullptr;  // CTAs, of this launch
  Divisor ctas;                // of a launch: all launches of a kind have the same
  uint32_t kind = 0;           // cluster size - 1
  int gpcs = 0;                // 0: CTAs take tiles by their index
  GpcSlots of_gpc[kMostGpcs] = {};
  uint8_t gpc_of_sm[kMostSlots] = {};
};

// What a cluster computes first: stages [begin, end) of a tile, which is the row-th cluster tile
// along the weights and the token-th along the tokens. Nothing where end is 0.
struct FirstWork {
  uint16_t row = 0;
  uint16_t token = 0;
  uint16_t begin = 0;
  uint16_t end = 0;
  int tile = 0;
};

constexpr int kMostK = 64 * 65535;     // stages are numbered in 16 bits,
constexpr int kMostSideTiles = 65535;  // and so are tiles
constexpr int kMostSplitK = 8;
constexpr int kMostPartialSums = 128 * 256;  // of a CTA

// What a loader's warp brings: weights, U8 [N, K] (nested: upper plane); X, F16 or E4M3 [M, K];
// lower plane of weights that have two.
enum Operand : int { kW, kX, kLower, kOperands };

// For tiles by token (Tile::kByToken) the weights and X have changed places in maps,
// w_policy, x_policy, cluster, row_clusters and token_clusters.
struct GemmParams {
  CUtensorMap maps[kOperands];
  Epilogue epilogue;
  Outliers outliers;
  const cuda::TinyWeight* tiny = nullptr;  // batches of a Nested12 weight; may be none
  BlockScales block;
  int m = 0;
  int n = 0;
  int k = 0;
  ClusterShape cluster;
  // Ranks in a cluster that share X with rank 0, a bit each; likewise W.
  uint32_t x_peers = 1;
  uint32_t w_peers = 1;
  int row_clusters = 0;    // cluster tiles along N
  int token_clusters = 0;  // and along M
  Divisor stages;          // of all K
  Divisor split;
  uint32_t decode_mask = kNestedDecodeMask;  // see DecodeNested, DecodeNested12
  int rehearsals = 1;                        // see Rehearsed
  GpcPlacement placement;                    // persistent family
  uint64_t w_policy = 0;                     // L2 eviction priority of the weights
  uint64_t x_policy = 0;

  // Persistent family: see Raster and Schedule.
  Divisor raster_group;       // weight tiles that are walked together,
  Divisor raster_last_group;  // of which the last group may have fewer
  Divisor raster_group_tiles;
  Divisor split_k;              // clusters that divide the K of each tile,
  int split_tiles = 0;          // of these
  bool one_each = false;        // clusters have one work at most
  int whole_tiles = 0;          // these are computed by one cluster each
  int share_stages = 0;         // stages of the others that each cluster computes, and of how many
  int share_longer = 0;         // clusters it is one more
  uint8_t* partials = nullptr;  // [CTA][rows * tokens] of 4 bytes, see PartialSums
  FirstWork first[kMostSlots + 1];  // by slot, or by cluster; the last is idle
};

}  // namespace dualfp::sm90
