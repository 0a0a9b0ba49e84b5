#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/quantize.h"

namespace dualfp::cuda {
namespace {

constexpr float kE4m3Max = 448.0f;
constexpr int kGroup = 16;  // elements a thread handles at a time: 32 bytes in, 16 out
constexpr int kMostThreads = 1024;

struct alignas(16) Half8 {
  __half2 v[4];
};

__device__ __forceinline__ Half8 LoadHalf8(const __half* p) {
  return *reinterpret_cast<const Half8*>(p);
}

__device__ __forceinline__ void Expand(const Half8& h, float* out) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 f = __half22float2(h.v[i]);
    out[2 * i] = f.x;
    out[2 * i + 1] = f.y;
  }
}

__device__ __forceinline__ float Silu(float v) { return __fdividef(v, 1.0f + __expf(-v)); }

__device__ __forceinline__ float WarpMax(float v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    v = fmaxf(v, __shfl_xor_sync(0xFFFFFFFFu, v, d));
  }
  return v;
}

__device__ __forceinline__ float WarpSum(float v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    v += __shfl_xor_sync(0xFFFFFFFFu, v, d);
  }
  return v;
}

// Over the block, whose warps are full; every thread gets the result. `shared` holds 32 values and
// must not be in use. Sums in a fixed order.
template <bool kIsMax>
__device__ __forceinline__ float BlockReduce(float v, float* shared) {
  v = kIsMax ? WarpMax(v) : WarpSum(v);
  if (threadIdx.x % 32 == 0) {
    shared[threadIdx.x / 32] = v;
  }
  __syncthreads();
  v = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : 0.0f;
  return kIsMax ? WarpMax(v) : WarpSum(v);
}

// v / scale, correctly rounded: one Newton step on the quotient by the rounded reciprocal
// (Markstein's theorem), at a third of the instructions of a division.
struct Divisor {
  float scale;
  float reciprocal;

  __device__ explicit Divisor(float scale_in) : scale(scale_in), reciprocal(1.0f / scale_in) {}
  __device__ __forceinline__ float operator()(float v) const {
    const float q = v * reciprocal;
    return fmaf(fmaf(-q, scale, v), reciprocal, q);
  }
};

__device__ __forceinline__ uint32_t PackE4m3(float a, float b, float c, float d) {
  const uint32_t low = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
  const uint32_t high = __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
  return low | high << 16;
}

// Sixteen consecutive elements divided by the scale, in permuted order.
__device__ __forceinline__ uint4 QuantizeGroup(const float (&v)[kGroup], const Divisor& divide) {
  uint32_t word[4];
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    word[t] = PackE4m3(divide(v[2 * t]), divide(v[2 * t + 1]), divide(v[2 * t + 8]),
                       divide(v[2 * t + 9]));
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}

// A group between the maximum and the rounding: as read where nothing is computed before.
template <QuantizeSource kSource>
struct Held {
  float v[kGroup];

  __device__ __forceinline__ void Values(float (&out)[kGroup]) const {
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      out[i] = v[i];
    }
  }
  __device__ __forceinline__ float Amax() const {
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      largest = fmaxf(largest, fabsf(v[i]));
    }
    return largest;
  }
};

template <>
struct Held<QuantizeSource::kPlain> {
  Half8 h[2];

  __device__ __forceinline__ void Values(float (&out)[kGroup]) const {
    Expand(h[0], out);
    Expand(h[1], out + 8);
  }
  __device__ __forceinline__ float Amax() const {
    __half2 largest = __habs2(h[0].v[0]);
#pragma unroll
    for (int i = 1; i < 8; ++i) {
      largest = __hmax2(largest, __habs2(h[i / 4].v[i % 4]));
    }
    return fmaxf(__low2float(largest), __high2float(largest));
  }
};

// Reads (and for kRmsNorm adds the residual to) elements k..k+15 of a row.
template <QuantizeSource kSource>
__device__ __forceinline__ void LoadGroup(const QuantizeArgs& a, int64_t row, int64_t k,
                                          Held<kSource>& held) {
  const __half* x = static_cast<const __half*>(a.x) + row * a.x_stride;
  if constexpr (kSource == QuantizeSource::kPlain) {
    held.h[0] = LoadHalf8(x + k);
    held.h[1] = LoadHalf8(x + k + 8);
  } else if constexpr (kSource == QuantizeSource::kSiluMul) {
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {
      float pairs[8];
      Expand(LoadHalf8(x + 2 * k + 8 * quarter), pairs);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        held.v[4 * quarter + i] = Silu(pairs[2 * i]) * pairs[2 * i + 1];
      }
    }
  } else if constexpr (kSource == QuantizeSource::kSiluMulHalves) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float gate[8];
      float up[8];
      Expand(LoadHalf8(x + k + 8 * half), gate);
      Expand(LoadHalf8(x + a.k + k + 8 * half), up);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        held.v[8 * half + i] = Silu(gate[i]) * up[i];
      }
    }
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Half8 h = LoadHalf8(x + k + 8 * half);
      if (a.residual != nullptr) {
        __half* r = static_cast<__half*>(a.residual) + row * a.k + k + 8 * half;
        const Half8 other = LoadHalf8(r);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          h.v[i] = __hadd2(h.v[i], other.v[i]);
        }
        *reinterpret_cast<Half8*>(r) = h;
      }
      Expand(h, held.v + 8 * half);
    }
  }
}

// A block takes a row and keeps it in registers between the maximum and the rounding.
template <QuantizeSource kSource, int kGroups>
__global__ void __launch_bounds__(kMostThreads, kSource == QuantizeSource::kPlain ? 2 : 1)
    QuantizeRows(const QuantizeArgs a) {
  __shared__ float shared[2][32];
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  const int64_t row = blockIdx.x;
  Held<kSource> held[kGroups];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int64_t k = int64_t{g * blockDim.x + threadIdx.x} * kGroup;
    held[g] = {};
    if (k < a.k) {
      LoadGroup<kSource>(a, row, k, held[g]);
    }
  }
  if constexpr (kSource == QuantizeSource::kRmsNorm) {
    float sum = 0.0f;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        sum += held[g].v[i] * held[g].v[i];
      }
    }
    sum = BlockReduce<false>(sum, shared[0]);
    const float inverse = rsqrtf(sum / static_cast<float>(a.k) + a.epsilon);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int64_t k = int64_t{g * blockDim.x + threadIdx.x} * kGroup;
      if (k < a.k) {
        float weight[kGroup];
        Expand(LoadHalf8(static_cast<const __half*>(a.weight) + k), weight);
        Expand(LoadHalf8(static_cast<const __half*>(a.weight) + k + 8), weight + 8);
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
          held[g].v[i] *= inverse * weight[i];
        }
      }
    }
  }
  float scale = a.static_scale;
  if (scale == 0.0f) {
    float largest = 0.0f;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      largest = fmaxf(largest, held[g].Amax());
    }
    largest = BlockReduce<true>(largest, shared[1]);
    scale = largest > 0.0f ? __fdiv_rn(largest, kE4m3Max) : 1.0f;
  }
  if (threadIdx.x == 0) {
    a.scale[row] = scale;
  }
  const Divisor divide(scale);
  uint4* q = reinterpret_cast<uint4*>(static_cast<uint8_t*>(a.q) + row * a.k);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int64_t group = g * blockDim.x + threadIdx.x;
    if (group * kGroup < a.k) {
      float v[kGroup];
      held[g].Values(v);
      q[group] = QuantizeGroup(v, divide);
    }
  }
}

using RowsKernel = void (*)(QuantizeArgs);

template <QuantizeSource kSource>
RowsKernel ChooseRows(int groups) {
  return groups == 1 ? QuantizeRows<kSource, 1> : QuantizeRows<kSource, 2>;
}

RowsKernel ChooseRows(QuantizeSource source, int groups) {
  switch (source) {
    case QuantizeSource::kPlain:
      return ChooseRows<QuantizeSource::kPlain>(groups);
    case QuantizeSource::kRmsNorm:
      return ChooseRows<QuantizeSource::kRmsNorm>(groups);
    case QuantizeSource::kSiluMul:
      return ChooseRows<QuantizeSource::kSiluMul>(groups);
    default:
      return ChooseRows<QuantizeSource::kSiluMulHalves>(groups);
  }
}

__global__ void __launch_bounds__(256) AmaxKernel(const __half* x, int64_t groups, float* amax) {
  __shared__ float shared[32];
  float largest = 0.0f;
  for (int64_t g = blockIdx.x * int64_t{256} + threadIdx.x; g < groups;
       g += int64_t{gridDim.x} * 256) {
    const Held<QuantizeSource::kPlain> held{{LoadHalf8(x + g * 16), LoadHalf8(x + g * 16 + 8)}};
    largest = fmaxf(largest, held.Amax());
  }
  largest = BlockReduce<true>(largest, shared);
  if (threadIdx.x == 0) {
    // Non-negative floats order as their bits do.
    atomicMax(reinterpret_cast<int*>(amax), __float_as_int(largest / kE4m3Max));
  }
}

__global__ void __launch_bounds__(256)
    ScaleKernel(const __half* x, int64_t groups, const float* scale_pointer, uint4* q) {
  const float loaded = *scale_pointer;
  const Divisor divide(loaded > 0.0f ? loaded : 1.0f);
  for (int64_t g = blockIdx.x * int64_t{256} + threadIdx.x; g < groups;
       g += int64_t{gridDim.x} * 256) {
    float v[kGroup];
    Expand(LoadHalf8(x + g * kGroup), v);
    Expand(LoadHalf8(x + g * kGroup + 8), v + 8);
    q[g] = QuantizeGroup(v, divide);
  }
}

}  // namespace

void Quantize(const QuantizeArgs& args, cudaStream_t stream, bool overlap) {
  Check(args.k % kGroup == 0 && args.k >= kGroup && args.k <= 32768, ErrorCode::kInvalidArgument,
        "quantize: K = ", args.k, ", expected a multiple of 16 up to 32768");
  Check(args.q != nullptr && args.scale != nullptr && args.x != nullptr,
        ErrorCode::kInvalidArgument, "quantize: x, q and scale are required");
  if (args.m == 0) {
    return;
  }
  const int row_groups = static_cast<int>(args.k / kGroup);
  const int held = row_groups > kMostThreads ? 2 : 1;
  const int threads = ((row_groups + held - 1) / held + 31) / 32 * 32;
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>(args.m));
  launch.blockDim = dim3(threads);
  launch.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  launch.attrs = &attribute;
  launch.numAttrs = overlap ? 1 : 0;
  CheckCuda(cudaLaunchKernelEx(&launch, ChooseRows(args.source, held), args), "Quantize");
}

void QuantizePerTensor(const void* x, int64_t m, int64_t k, void* q, float* scale,
                       cudaStream_t stream) {
  Check(k % kGroup == 0, ErrorCode::kInvalidArgument, "quantize: K = ", k,
        ", expected a multiple of 16");
  CheckCuda(cudaMemsetAsync(scale, 0, sizeof(float), stream), "cudaMemsetAsync");
  if (m == 0) {
    return;
  }
  const int64_t groups = m * k / kGroup;
  const int blocks = static_cast<int>(groups / 256 + 1 < 1056 ? groups / 256 + 1 : 1056);
  AmaxKernel<<<blocks, 256, 0, stream>>>(static_cast<const __half*>(x), groups, scale);
  ScaleKernel<<<blocks, 256, 0, stream>>>(static_cast<const __half*>(x), groups, scale,
                                          static_cast<uint4*>(q));
  CheckCuda(cudaGetLastError(), "QuantizePerTensor");
}

}  // namespace dualfp::cuda
