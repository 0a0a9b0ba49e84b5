#include <algorithm>

#include "dualfp/kernels/cuda/attention/decode.cuh"
#include "dualfp/kernels/cuda/ops/launch.h"

namespace dualfp::cuda {
namespace {

using Kernel = void (*)(AttentionParams);

template <typename Cache>
Kernel ForHeadDim(int head_dim) {
  switch (head_dim) {
    case 64:
      return Decode<Cache, 64>;
    case 80:
      return Decode<Cache, 80>;
    case 96:
      return Decode<Cache, 96>;
    case 128:
      return Decode<Cache, 128>;
    default:
      return Decode<Cache, 256>;
  }
}

int Multiprocessors(int device) {
  int count = 0;
  CheckCuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
            "cudaDeviceGetAttribute");
  return count;
}

}  // namespace

int64_t MostDecodePieces(const AttentionShape& shape, const AttentionLimits& limits) {
  const int64_t lists = limits.max_sequences * shape.kv_heads *
                        MostQueryTiles(static_cast<int>(shape.heads / shape.kv_heads));
  if (!limits.batch_invariant) {
    return kMostRounds * kMostBlocks + lists;  // each list rounds its share up
  }
  const int64_t pages = (limits.max_context + kKvBlockSize - 1) / kKvBlockSize;
  return lists * std::min<int64_t>(kMostFixedPieces, (pages + kLeastPages - 1) / kLeastPages);
}

void AttendDecodes(const Context& context, DType cache, const AttentionParams& params) {
  // All there is room for: how much work there is, blocks see for themselves.
  const LaunchShape shape{
      .grid =
          dim3(static_cast<unsigned>(kDecodeBlocksPerSm * Multiprocessors(context.device.index))),
      .threads = kDecodeThreads,
      .shared_bytes = DecodeUnitsInts(params.sequences) * sizeof(int)};
  const Kernel kernel = cache == DType::kF16    ? ForHeadDim<__half>(params.head_dim)
                        : cache == DType::kBF16 ? ForHeadDim<__nv_bfloat16>(params.head_dim)
                                                : ForHeadDim<__nv_fp8_e4m3>(params.head_dim);
  LaunchOp("paged_attention", context, shape, kernel, params);
}

}  // namespace dualfp::cuda
