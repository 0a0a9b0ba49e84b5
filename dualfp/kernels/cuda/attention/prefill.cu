#include "dualfp/kernels/cuda/attention/prefill.cuh"
#include "dualfp/kernels/cuda/ops/launch.h"

namespace dualfp::cuda {
namespace {

struct Choice {
  void (*kernel)(AttentionParams);
  size_t shared_bytes;
};

template <typename Cache, int kDim>
Choice Of() {
  return {Prefill<Cache, kDim>, PrefillShared<kDim>::kBytes};
}

template <typename Cache>
Choice ForHeadDim(int head_dim) {
  switch (head_dim) {
    case 64:
      return Of<Cache, 64>();
    case 80:
      return Of<Cache, 80>();
    case 96:
      return Of<Cache, 96>();
    case 128:
      return Of<Cache, 128>();
    default:
      return Of<Cache, 256>();
  }
}

}  // namespace

void AttendPrefills(const Context& context, DType cache, int64_t tiles,
                    const AttentionParams& params) {
  const Choice choice = cache == DType::kF16    ? ForHeadDim<__half>(params.head_dim)
                        : cache == DType::kBF16 ? ForHeadDim<__nv_bfloat16>(params.head_dim)
                                                : ForHeadDim<__nv_fp8_e4m3>(params.head_dim);
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(params.kv_heads)),
      .threads = kPrefillThreads,
      .shared_bytes = choice.shared_bytes};
  LaunchOp("paged_attention", context, shape, choice.kernel, params);
}

}  // namespace dualfp::cuda
