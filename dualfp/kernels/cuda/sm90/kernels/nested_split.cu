#include "dualfp/kernels/cuda/sm90/kernels/instantiate.cuh"

namespace dualfp::sm90 {

void AddNestedSplit(std::vector<KernelConfig>& table) {
  constexpr WeightFormat kFormat = WeightFormat::kNested;
  // Warpgroups, blocks, K, CTAs an SM; then tokens.
  AddSplit<kFormat, 1, 1, 128, 1, 16, 32, 64>(table);
  AddSplit<kFormat, 1, 1, 128, 2, 8, 16, 32>(table);
  AddSplit<kFormat, 2, 1, 128, 1, 64, 128>(table);
  AddSplit<kFormat, 2, 1, 128, 2, 16>(table);
  AddSplit<kFormat, 2, 1, 64, 2, 32>(table);
  AddSplit<kFormat, 2, 1, 64, 1, 128, 256>(table);
  AddSplit<kFormat, 2, 2, 64, 1, 128>(table);
  AddSplit<kFormat, 3, 1, 64, 1, 64, 128>(table);
}

}  // namespace dualfp::sm90
