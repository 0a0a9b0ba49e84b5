// Attention for what tensor cores do not take: a block for each token and head, F32 throughout.

#include "dualfp/kernels/cuda/attention/attention.h"
#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/cuda/ops/element.cuh"
#include "dualfp/kernels/cuda/ops/launch.h"

namespace dualfp::cuda {
namespace {

// Keys of a tile, one a thread. Tiles start at multiples of it, so that a token's result depends on
// its own context alone.
constexpr int kThreads = 128;
constexpr int kMostElements = (kMaxHeadDim + kThreads - 1) / kThreads;  // of the output, a thread

template <bool kMax>
__device__ __forceinline__ float Reduce(float v, float* shared) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    const float other = __shfl_xor_sync(0xFFFFFFFFu, v, d);
    v = kMax ? fmaxf(v, other) : v + other;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    shared[threadIdx.x / 32] = v;
  }
  __syncthreads();
  v = shared[0];
#pragma unroll
  for (int i = 1; i < kThreads / 32; ++i) {
    v = kMax ? fmaxf(v, shared[i]) : v + shared[i];
  }
  return v;
}

template <typename T, typename Cache>
__global__ void __launch_bounds__(kThreads) ByKey(const __grid_constant__ AttentionParams p) {
  __shared__ float query[kMaxHeadDim];
  __shared__ float weight[kThreads];
  __shared__ float reduced[kThreads / 32];
  GridLaunchDependents();
  GridWaitForPrevious();
  const int token = blockIdx.x;
  const int head = blockIdx.y;
  const int kv_head = head / p.group;
  if (token >= p.query_start[p.sequences]) {
    return;
  }
  int sequence = 0;  // the last that does not begin after the token
  for (int end = p.sequences; end - sequence > 1;) {
    const int middle = (sequence + end) / 2;
    (p.query_start[middle] <= token ? sequence : end) = middle;
  }
  const int position = p.context_length[sequence] - (p.query_start[sequence + 1] - token);
  const int first = p.window > 0 ? max(0, position - p.window + 1) : 0;
  const int32_t* blocks = p.block_table + sequence * p.table_row;
  const T* q = static_cast<const T*>(p.query) + token * p.query_row + head * p.query_head;
  for (int d = threadIdx.x; d < p.head_dim; d += kThreads) {
    query[d] = ToFloat(q[d]);
  }
  float out[kMostElements] = {};
  float largest = -1e30f;
  float sum = 0.0f;
  const auto row_of = [&](const void* cache, int key) {
    const int64_t block = blocks[key / kKvBlockSize];
    return static_cast<const Cache*>(cache) +
           ((block * p.kv_heads + kv_head) * kKvBlockSize + key % kKvBlockSize) * p.head_dim;
  };
  for (int base = first / kThreads * kThreads; base <= position; base += kThreads) {
    __syncthreads();  // the query is there; the weights before have been used
    const int key = base + threadIdx.x;
    float score = -INFINITY;
    if (key >= first && key <= position) {
      const Cache* k = row_of(p.key, key);
      float dot = 0.0f;
      for (int d = 0; d < p.head_dim; ++d) {
        dot = fmaf(query[d], ToFloat(k[d]), dot);
      }
      score = dot * p.scale_log2;
    }
    const float new_largest = fmaxf(largest, Reduce<true>(score, reduced));
    const float keep = exp2f(largest - new_largest);
    const float own = exp2f(score - new_largest);
    weight[threadIdx.x] = own;
    sum = sum * keep + Reduce<false>(own, reduced);
    largest = new_largest;
    const int begin = max(first, base);
    const int end = min(position + 1, base + kThreads);
#pragma unroll
    for (int i = 0; i < kMostElements; ++i) {
      const int d = i * kThreads + threadIdx.x;
      if (d < p.head_dim) {
        out[i] *= keep;
        for (int j = begin; j < end; ++j) {
          out[i] = fmaf(weight[j - base], ToFloat(row_of(p.value, j)[d]), out[i]);
        }
      }
    }
  }
  T* to = static_cast<T*>(p.out) + token * p.out_row + head * p.out_head;
#pragma unroll
  for (int i = 0; i < kMostElements; ++i) {
    const int d = i * kThreads + threadIdx.x;
    if (d < p.head_dim) {
      to[d] = FromFloat<T>(out[i] / sum * p.value_scale);
    }
  }
}

template <typename T>
auto ByKeyOf(DType cache) {
  switch (cache) {
    case DType::kF16:
      return ByKey<T, __half>;
    case DType::kBF16:
      return ByKey<T, __nv_bfloat16>;
    case DType::kF8E4M3:
      return ByKey<T, __nv_fp8_e4m3>;
    default:
      return ByKey<T, float>;
  }
}

}  // namespace

void AttendByKey(const Context& context, DType cache, const AttentionParams& params) {
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(params.tokens),
                                       static_cast<unsigned>(params.group * params.kv_heads)),
                          .threads = kThreads};
  WithActivation(params.dtype, [&]<typename T>() {
    LaunchOp("paged_attention", context, shape, ByKeyOf<T>(cache), params);
  });
}

}  // namespace dualfp::cuda
