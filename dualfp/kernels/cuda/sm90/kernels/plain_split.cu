#include "dualfp/kernels/cuda/sm90/kernels/instantiate.cuh"

namespace dualfp::sm90 {
namespace {

template <WeightFormat kFormat>
void Add(std::vector<KernelConfig>& table) {
  // Warpgroups, blocks, K, CTAs an SM; then tokens.
  AddSplit<kFormat, 1, 1, 64, 1, 64>(table);
  AddSplit<kFormat, 1, 1, 64, 2, 8, 16, 32>(table);
  AddSplit<kFormat, 2, 1, 64, 2, 16>(table);
  AddSplit<kFormat, 2, 2, 64, 1, 128>(table);
  AddSplit<kFormat, 3, 1, 64, 1, 32>(table);
}

}  // namespace

void AddPlainSplit(std::vector<KernelConfig>& table) {
  Add<WeightFormat::kF16>(table);
  Add<WeightFormat::kBf16>(table);
}

}  // namespace dualfp::sm90
