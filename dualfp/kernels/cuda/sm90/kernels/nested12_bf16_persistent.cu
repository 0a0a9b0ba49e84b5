#include "dualfp/kernels/cuda/sm90/kernels/nested12.cuh"

namespace dualfp::sm90 {

void AddNested12Bf16Persistent(std::vector<KernelConfig>& table) {
  AddNested12PersistentOf<WeightFormat::kNested12Bf16>(table);
}

}  // namespace dualfp::sm90
