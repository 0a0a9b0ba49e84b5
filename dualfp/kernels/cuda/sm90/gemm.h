// The Hopper GEMMs: Y[M,N] = X[M,K] · W[N,K]ᵀ over nested, Nested12, E4M3, FP16 or BF16 weights.
// Raw device pointers and a stream; nothing here allocates or synchronises.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "dualfp/kernels/cuda/sm90/gemm_params.h"
#include "dualfp/kernels/cuda/sm90/tile_format.h"

namespace dualfp::sm90 {

// One problem. K and N are multiples of 16; planes are K-permuted (docs/formats.md) and so is an
// E4M3 X. All rows start at multiples of 16 bytes.
struct GemmProblem {
  WeightFormat format = WeightFormat::kNested;
  int m = 0;
  int n = 0;
  int k = 0;
  const void* w = nullptr;  // [N, K], U8: upper plane or E4M3 values; or F16, BF16
  const void* w_lower =
      nullptr;              // nested: U8 [N, K], as NestedDeviceLower has it; Nested12: nibbles
  const void* x = nullptr;  // [M, K]: F16 (nested), E4M3, or what the format's name says
  int64_t x_stride = 0;     // elements between rows
  Epilogue epilogue;
  // Nested12, whose row scales are Epilogue::w_scale: batches, or nullptr.
  const cuda::TinyWeight* tiny = nullptr;
  Outliers outliers;  // of nested and E4M3 weights; `x` and `x_stride` are set from those above
  BlockScales block;  // kE4m3Promoted only
  // kWorkspaceBytes on 256, see InitWorkspace; persistent kernels are faster with one and some
  // plans want one. Kernels that may run at one time need one each.
  void* workspace = nullptr;
};

constexpr int64_t kWorkspaceHeaderBytes = 1024;
constexpr int64_t kWorkspaceBytes =
    kWorkspaceHeaderBytes + int64_t{kMostSlots} * 4 * kMostPartialSums;

// Makes memory of the current device a workspace for kernels that follow in the stream. The first
// time on a device some small kernels run, which it waits for; not while the stream is captured.
void InitWorkspace(void* workspace, cudaStream_t stream);

enum class Family { kSplit, kPersistent };

// A compiled kernel.
struct KernelConfig {
  Family family;
  WeightFormat format;
  int warpgroups;  // consumers
  bool ping_pong;  // which compute a tile each, not one together
  bool by_token;   // tokens are the 64-row side of wgmma, weights its column side
  int blocks;      // of 64 rows, a warpgroup
  int rows;        // of weights: of the tile
  int tokens;      // of the tile
  int k;           // elements of K in a stage
  int ctas;        // to an SM
  int stages;
  int threads;
  int shared_bytes;
  int region_bytes;  // of shared memory that partial sums may lie over
  bool two_stages;   // promoted: one is added while the next multiplies
  bool shareable;    // CTAs can share a tile (persistent family)
  bool finishes;     // has registers for activations and residuals (persistent family)
  bool patches;      // Nested12: what planes lack becomes part of fragments, as their type has it
  const void* function;
};

// "nested", "nested12_f16", "nested12_bf16", "e4m3", "e4m3_promoted", "f16", "bf16".
std::string_view FormatName(WeightFormat format);

// "nested_split_r128_t16_k128_c1": for tables, logs and --kernel. What comes first, weight rows (r)
// or tokens (t), is the 64-row side of wgmma.
std::string Name(const KernelConfig& config);

std::span<const KernelConfig> KernelConfigs();

// How to run a problem.
struct Plan {
  const KernelConfig* config = nullptr;
  ClusterShape cluster;  // split: split family only
  int raster_group = 8;  // cluster tiles along N walked together (persistent family)
  // Persistent family, through the workspace: kStreamK (stream-K) cuts the tiles that would make an
  // incomplete last wave along K into equal shares for all clusters; a number cuts the K of each
  // tile into that many (split-K).
  static constexpr int kStreamK = 0;
  int split_k = 1;

  bool UsesWorkspace() const { return split_k != 1; }
};

// "nested_split_r128_t16_k128/s3": s = split, x = share_x, w = share_w, where not 1; g = raster
// group, where not 8; k = split-K, where not 1, "k" alone for kStreamK.
std::string Name(const Plan& plan);

// Whether all parts begin at multiples of `rows` rows, in W and in their blocks of scales (half of
// it in blocks where they are interleaved and `rows` is less than a block's 128).
bool PartsAligned(const RowParts& parts, int rows);

// Empty when the plan can run the problem, else why not.
std::string Unsupported(const Plan& plan, const GemmProblem& problem);

// Clusters of this many CTAs that the current device runs at one time.
int MaxActiveClusters(const KernelConfig& config, int cluster_size);

// Enqueues the plan. `overlap` uses programmatic dependent launch: the weights start to load before
// the previous kernel of the stream has finished.
void Launch(const Plan& plan, const GemmProblem& problem, cudaStream_t stream, bool overlap);

}  // namespace dualfp::sm90
