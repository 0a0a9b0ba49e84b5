#include "dualfp/kernels/cuda/sm90/kernels/instantiate.cuh"

namespace dualfp::sm90 {

void AddE4m3Promoted(std::vector<KernelConfig>& table) {
  constexpr WeightFormat kFormat = WeightFormat::kE4m3Promoted;
  // Warpgroups, blocks, K, CTAs an SM; then tokens.
  AddSplit<kFormat, 1, 1, 128, 2, 8, 16, 32, 64>(table);
  AddSplit<kFormat, 2, 1, 128, 2, 16, 32>(table);
  AddSplit<kFormat, 2, 1, 128, 1, 64, 128>(table);
  AddPersistent<kFormat, 1, 1, 128, 2, 64, 128>(table);
  AddPersistent<kFormat, 2, 1, 128, 2, 64>(table);
  AddPersistent<kFormat, 2, 1, 128, 1, 32, 64, 96, 128>(table);
  AddPersistent<kFormat, 3, 1, 128, 1, 64, 96>(table);
  // 64 tokens a warpgroup by these many weights.
  AddPromotedByToken<2, 48, 64, 80, 96, 128, 160, 192>(table);
  AddPromotedByToken<3, 64, 96, 112, 128>(table);
}

}  // namespace dualfp::sm90
