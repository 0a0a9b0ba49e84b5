// Turns tile types into rows of the kernel table.

#pragma once

#include <vector>

#include "dualfp/kernels/cuda/sm90/gemm.h"
#include "dualfp/kernels/cuda/sm90/persistent_kernel.cuh"
#include "dualfp/kernels/cuda/sm90/split_kernel.cuh"
#include "dualfp/kernels/cuda/sm90/turns_kernel.cuh"

namespace dualfp::sm90 {

template <class T>
KernelConfig Describe(Family family, const void* function) {
  return {family,
          T::kFormat,
          T::kWarpgroups,
          T::kTurns,
          T::kBlocks,
          T::kTokens,
          T::kK,
          T::kCtas,
          T::kStages,
          T::kThreads,
          T::kSharedBytes,
          T::kRegionBytes,
          T::kCopiesOut ? StoreChunkTokens(T::kTokens) : 0,
          T::kFinishes,
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

template <WeightFormat kFormat, int kWarpgroups, int kBlocks, int kTokens, int kK, int kCtas,
          Sharing kSharing = Sharing::kTogether>
using PersistentTile = Tile<kFormat, kWarpgroups, kBlocks, kTokens, kK, kCtas,
                            kWarpgroups * StagingBytes(kTokens), kSharing>;

template <WeightFormat kFormat, int kWarpgroups, int kBlocks, int kK, int kCtas, int... kTokens>
void AddPersistent(std::vector<KernelConfig>& table) {
  (table.push_back(Describe<PersistentTile<kFormat, kWarpgroups, kBlocks, kTokens, kK, kCtas>>(
       Family::kPersistent,
       reinterpret_cast<const void*>(
           &PersistentGemm<PersistentTile<kFormat, kWarpgroups, kBlocks, kTokens, kK, kCtas>>))),
   ...);
}

// FP8: two warpgroups in turns.
template <int kBlocks, int... kTokens>
void AddTurns(std::vector<KernelConfig>& table) {
  constexpr auto kFormat = WeightFormat::kE4m3;
  (table.push_back(Describe<PersistentTile<kFormat, 2, kBlocks, kTokens, 128, 1, Sharing::kTurns>>(
       Family::kPersistent,
       reinterpret_cast<const void*>(
           &TurnsGemm<PersistentTile<kFormat, 2, kBlocks, kTokens, 128, 1, Sharing::kTurns>>))),
   ...);
}

}  // namespace dualfp::sm90
