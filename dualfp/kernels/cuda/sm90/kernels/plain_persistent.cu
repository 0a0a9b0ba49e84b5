#include "dualfp/kernels/cuda/sm90/kernels/instantiate.cuh"

namespace dualfp::sm90 {
namespace {

template <WeightFormat kFormat>
void Add(std::vector<KernelConfig>& table) {
  // Warpgroups, blocks, K, CTAs an SM; then tokens.
  AddPersistent<kFormat, 2, 1, 64, 1, 8, 16, 32, 48, 64, 80, 96, 128, 160>(table);
  AddPersistent<kFormat, 2, 2, 64, 1, 128>(table);
  AddPersistent<kFormat, 3, 1, 64, 1, 80, 96, 128>(table);
}

}  // namespace

void AddPlainPersistent(std::vector<KernelConfig>& table) {
  Add<WeightFormat::kF16>(table);
  Add<WeightFormat::kBf16>(table);
}

}  // namespace dualfp::sm90
