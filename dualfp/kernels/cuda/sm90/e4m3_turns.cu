#include "dualfp/kernels/cuda/sm90/instantiate.cuh"

namespace dualfp::sm90 {

void AddE4m3Turns(std::vector<KernelConfig>& table) {
  AddTurns<Sharing::kTurns, 96, 128, 160, 192>(table);                             // tokens
  AddTurns<Sharing::kTurnsByToken, 96, 112, 120, 144, 160, 168, 176, 192>(table);  // weights
}

}  // namespace dualfp::sm90
