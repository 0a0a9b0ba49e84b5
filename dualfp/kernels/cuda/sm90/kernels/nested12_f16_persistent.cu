#include "dualfp/kernels/cuda/sm90/kernels/nested12.cuh"

namespace dualfp::sm90 {

void AddNested12F16Persistent(std::vector<KernelConfig>& table) {
  AddNested12PersistentOf<WeightFormat::kNested12F16>(table);
}

}  // namespace dualfp::sm90
