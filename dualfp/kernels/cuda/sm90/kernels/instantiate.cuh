// From tile types to rows of the kernel table.

#pragma once

#include <vector>

#include "dualfp/kernels/cuda/sm90/gemm.h"
#include "dualfp/kernels/cuda/sm90/kernels/persistent_kernel.cuh"
#include "dualfp/kernels/cuda/sm90/kernels/ping_pong_kernel.cuh"
#include "dualfp/kernels/cuda/sm90/kernels/split_kernel.cuh"

namespace dualfp::sm90 {

template <class T>
KernelConfig Describe(Family family, const void* function) {
  return {family,
          T::kFormat,
          T::kWarpgroups,
          T::kPingPong,
          T::kByToken,
          T::kBlocks,
          T::kByToken ? T::kTokens : T::kRows,
          T::kByToken ? T::kRows : T::kTokens,
          T::kK,
          T::kCtas,
          T::kStages,
          T::kThreads,
          T::kSharedBytes,
          T::kRegionBytes,
          T::kTwoStages,
          family == Family::kPersistent && T::kShareable,
          T::kFinishes,
          T::kPatches,
          function};
}

template <WeightFormat kFormat, int kWarpgroups, int kBlocks, int kK, int kCtas, int... kTokens>
void AddSplit(std::vector<KernelConfig>& table) {
  (table.push_back(Describe<Tile<kFormat, kWarpgroups, kBlocks, kTokens, kK, kCtas, 0>>(
       Family::kSplit,
       reinterpret_cast<const void*>(
           &SplitGemm<Tile<kFormat, kWarpgroups, kBlocks, kTokens, kK, kCtas, 0>>))),
   ...);
}

// Of all warpgroups. TinySums lie in the same memory.
template <WeightFormat kFormat, int kWarpgroups, int kBlocks, int kTokens>
constexpr int PersistentStagingBytes =
    kWarpgroups*(HasSums(kFormat, kWarpgroups* kBlocks, kTokens) &&
                         StagingBytes(kTokens) < kBlocks * 64 * SumsStride(kTokens)
                     ? kBlocks * 64 * SumsStride(kTokens)
                     : StagingBytes(kTokens));

template <WeightFormat kFormat, int kWarpgroups, int kBlocks, int kTokens, int kK, int kCtas>
using PersistentTile = Tile<kFormat, kWarpgroups, kBlocks, kTokens, kK, kCtas,
                            PersistentStagingBytes<kFormat, kWarpgroups, kBlocks, kTokens>>;

template <class T>
KernelConfig DescribePersistent() {
  return Describe<T>(Family::kPersistent, reinterpret_cast<const void*>(&PersistentGemm<T>));
}

template <WeightFormat kFormat, int kWarpgroups, int kBlocks, int kK, int kCtas, int... kTokens>
void AddPersistent(std::vector<KernelConfig>& table) {
  (table.push_back(
       DescribePersistent<PersistentTile<kFormat, kWarpgroups, kBlocks, kTokens, kK, kCtas>>()),
   ...);
}

// FP8 promoted: 64 tokens a warpgroup by kWeights.
template <int kWarpgroups, int kWeights>
using PromotedByTokenTile = Tile<WeightFormat::kE4m3Promoted, kWarpgroups, 1, kWeights, 128, 1,
                                 kWarpgroups * kTokenStagingBytes, Sharing::kTogetherByToken>;

template <int kWarpgroups, int... kWeights>
void AddPromotedByToken(std::vector<KernelConfig>& table) {
  (table.push_back(DescribePersistent<PromotedByTokenTile<kWarpgroups, kWeights>>()), ...);
}

// 128 rows by kColumns by 128 bytes of K, two ping-pong warpgroups.
template <WeightFormat kFormat, Sharing kSharing, int kColumns>
using PingPongTile =
    Tile<kFormat, 2, 2, kColumns, kFormat == WeightFormat::kE4m3 ? 128 : 64, 1,
         2 * (kSharing == Sharing::kPingPongByToken ? kTokenStagingBytes : StagingBytes(kColumns)),
         kSharing>;

template <WeightFormat kFormat, Sharing kSharing, int... kColumns>
void AddPingPong(std::vector<KernelConfig>& table) {
  (table.push_back(Describe<PingPongTile<kFormat, kSharing, kColumns>>(
       Family::kPersistent,
       reinterpret_cast<const void*>(&PingPongGemm<PingPongTile<kFormat, kSharing, kColumns>>))),
   ...);
}

}  // namespace dualfp::sm90
