#include "dualfp/kernels/cuda/sm90/kernels/instantiate.cuh"

namespace dualfp::sm90 {

void AddNestedPersistent(std::vector<KernelConfig>& table) {
  constexpr WeightFormat kFormat = WeightFormat::kNested;
  // Warpgroups, blocks, K, CTAs an SM; then tokens.
  AddPersistent<kFormat, 2, 1, 128, 1, 8, 16, 32, 48, 64, 80, 96, 128>(table);
  AddPersistent<kFormat, 2, 1, 64, 1, 96, 128, 160, 176, 192, 208, 216, 224, 256>(table);
  AddPersistent<kFormat, 2, 2, 64, 1, 128, 144, 160>(table);
  AddPersistent<kFormat, 3, 1, 64, 1, 96, 128>(table);
}

}  // namespace dualfp::sm90
