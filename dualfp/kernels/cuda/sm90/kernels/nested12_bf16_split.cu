#include "dualfp/kernels/cuda/sm90/kernels/nested12.cuh"

namespace dualfp::sm90 {

void AddNested12Bf16Split(std::vector<KernelConfig>& table) {
  AddNested12SplitOf<WeightFormat::kNested12Bf16>(table);
}

}  // namespace dualfp::sm90
