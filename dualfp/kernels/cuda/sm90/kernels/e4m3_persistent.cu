#include "dualfp/kernels/cuda/sm90/kernels/instantiate.cuh"

namespace dualfp::sm90 {

void AddE4m3Persistent(std::vector<KernelConfig>& table) {
  constexpr WeightFormat kFormat = WeightFormat::kE4m3;
  // Warpgroups, blocks, K, CTAs an SM; then tokens.
  AddPersistent<kFormat, 1, 1, 128, 2, 64>(table);
  AddPersistent<kFormat, 2, 1, 128, 1, 8, 16, 32, 48, 64, 80, 96, 128, 160>(table);
  AddPersistent<kFormat, 2, 2, 128, 1, 128>(table);
  AddPersistent<kFormat, 3, 1, 128, 1, 64, 80, 96, 128, 192>(table);
}

}  // namespace dualfp::sm90
