#include "dualfp/kernels/cuda/sm90/kernels/instantiate.cuh"

namespace dualfp::sm90 {

void AddE4m3PingPong(std::vector<KernelConfig>& table) {
  constexpr WeightFormat kFormat = WeightFormat::kE4m3;
  // 128 weights by these many tokens,
  AddPingPong<kFormat, Sharing::kPingPong, 96, 128, 160, 192>(table);
  // and 128 tokens by these many weights.
  AddPingPong<kFormat, Sharing::kPingPongByToken, 40, 48, 64, 72, 80, 88, 96, 112, 120, 144, 160,
              168, 176, 192>(table);
}

}  // namespace dualfp::sm90
