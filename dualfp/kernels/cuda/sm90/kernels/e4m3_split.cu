#include "dualfp/kernels/cuda/sm90/kernels/instantiate.cuh"

namespace dualfp::sm90 {

void AddE4m3Split(std::vector<KernelConfig>& table) {
  constexpr WeightFormat kFormat = WeightFormat::kE4m3;
  // Warpgroups, blocks, K, CTAs an SM; then tokens.
  AddSplit<kFormat, 1, 1, 128, 1, 64>(table);
  AddSplit<kFormat, 1, 1, 128, 2, 8, 16, 32, 64>(table);
  AddSplit<kFormat, 2, 1, 128, 1, 64, 128>(table);
  AddSplit<kFormat, 2, 1, 128, 2, 16, 32>(table);
  AddSplit<kFormat, 2, 2, 128, 1, 128>(table);
  AddSplit<kFormat, 3, 1, 128, 1, 32, 64, 128>(table);
}

}  // namespace dualfp::sm90
