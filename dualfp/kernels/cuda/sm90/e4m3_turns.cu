#include "dualfp/kernels/cuda/sm90/instantiate.cuh"

namespace dualfp::sm90 {

void AddE4m3Turns(std::vector<KernelConfig>& table) {
  AddTurns<2, 96, 112, 128, 160, 176, 192>(table);
}

}  // namespace dualfp::sm90
