// The tiles of Nested12 kernels, for fragments of either type.

#pragma once

#include "dualfp/kernels/cuda/sm90/kernels/instantiate.cuh"

namespace dualfp::sm90 {

template <WeightFormat kFormat>
void AddNested12SplitOf(std::vector<KernelConfig>& table) {
  // Warpgroups, blocks, K, CTAs an SM; then tokens.
  AddSplit<kFormat, 1, 1, 128, 1, 16, 32, 64>(table);
  AddSplit<kFormat, 1, 1, 128, 2, 8, 16, 32, 64>(table);
  AddSplit<kFormat, 1, 1, 128, 3, 8, 16>(table);
  AddSplit<kFormat, 1, 1, 128, 4, 8>(table);
  AddSplit<kFormat, 2, 1, 128, 1, 16, 32, 64, 128>(table);
  AddSplit<kFormat, 2, 1, 128, 2, 8, 16, 32>(table);
  AddSplit<kFormat, 2, 1, 64, 1, 128, 256>(table);
  AddSplit<kFormat, 2, 2, 64, 1, 128>(table);
  AddSplit<kFormat, 3, 1, 64, 1, 64>(table);
}

template <WeightFormat kFormat>
void AddNested12PersistentOf(std::vector<KernelConfig>& table) {
  // Warpgroups, blocks, K, CTAs an SM; then tokens.
  if constexpr (kFormat == WeightFormat::kNested12Bf16) {  // for the other ptxas serializes wgmma
    AddPersistent<kFormat, 1, 1, 128, 1, 64>(table);
  }
  AddPersistent<kFormat, 2, 1, 128, 1, 8, 16, 32, 48, 64, 80, 96, 128>(table);
  AddPersistent<kFormat, 2, 1, 64, 1, 96, 128, 160, 176, 192, 208, 216, 224, 256>(table);
  AddPersistent<kFormat, 2, 2, 64, 1, 128, 144, 160>(table);
  AddPersistent<kFormat, 3, 1, 128, 1, 16, 32, 64>(table);
  AddPersistent<kFormat, 3, 1, 64, 1, 96, 128>(table);
}

}  // namespace dualfp::sm90
