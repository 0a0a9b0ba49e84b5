#include <cooperative_groups.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/portable/quantize.cuh"
#include "dualfp/kernels/cuda/quantize.h"

namespace dualfp::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kTogether = 4;  // chunks that a thread loads at a time

struct TensorArgs {
  const uint16_t* x;
  int64_t x_stride;
  int64_t chunks;  // of all rows
  int64_t row_chunks;
  uint2* q;
  float* scale;      // then a maximum of each block
  int shared_steps;  // kept in shared memory,
  int l2_steps;      // and the last ones in L2
};

template <bool kContiguous>
__device__ __forceinline__ const uint16_t* Address(const TensorArgs& a, int64_t chunk) {
  if constexpr (kContiguous) {
    return a.x + chunk * kChunk;
  } else {
    const int64_t row = chunk / a.row_chunks;
    return a.x + row * a.x_stride + (chunk - row * a.row_chunks) * kChunk;
  }
}

// Whether registers and shared memory hold all of x.
enum class Residence { kOnChip, kBeyond };

// Steps that are kept in registers; more of them make small launches slower.
template <Residence kResidence>
constexpr int kRegisterSteps = kResidence == Residence::kBeyond ? 8 : 4;

// What cannot stay on the chip competes for L2: loads and stores say what should stay.
enum class L2Policy : uint64_t { kPasses = 0x12F0000000000000, kStays = 0x14F0000000000000 };

__device__ __forceinline__ Chunk LoadChunkWith(L2Policy policy, const uint16_t* p) {
  Chunk c;
  asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v4.b32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(c.word[0]), "=r"(c.word[1]), "=r"(c.word[2]), "=r"(c.word[3])
               : "l"(p), "l"(static_cast<uint64_t>(policy)));
  return c;
}
__device__ __forceinline__ void StorePassing(uint2* p, uint2 v) {
  asm volatile("st.global.L2::cache_hint.v2.b32 [%0], {%1, %2}, %3;" ::"l"(p), "r"(v.x), "r"(v.y),
               "l"(static_cast<uint64_t>(L2Policy::kPasses))
               : "memory");
}

// In a step each thread of the grid takes one chunk. The first steps are kept in registers, the
// next in shared memory, the last in L2.
template <class E, bool kContiguous, Residence kResidence>
__global__ void __launch_bounds__(kThreads, 2)
    QuantizeTensor(const __grid_constant__ TensorArgs a) {
  constexpr int kInRegisters = kRegisterSteps<kResidence>;
  constexpr bool kBeyond = kResidence == Residence::kBeyond;
  extern __shared__ uint4 kept[];
  __shared__ SumMax shared[32];
  __shared__ SumMax shared_again[32];
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  const int64_t step_chunks = int64_t{gridDim.x} * kThreads;
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int steps = static_cast<int>((a.chunks + step_chunks - 1) / step_chunks);
  const auto load = [&](int step, L2Policy policy) {
    const int64_t i = first + step * step_chunks;
    if (i >= a.chunks) {
      return Chunk();
    }
    const uint16_t* x = Address<kContiguous>(a, i);
    return kBeyond ? LoadChunkWith(policy, x) : LoadChunk(x);
  };
  uint32_t magnitude = 0;
  Chunk in_registers[kInRegisters];
#pragma unroll
  for (int s = 0; s < kInRegisters; ++s) {
    in_registers[s] = load(s, L2Policy::kPasses);
  }
#pragma unroll
  for (int s = 0; s < kInRegisters; ++s) {
    magnitude = MaxMagnitude<E>(in_registers[s], magnitude);
  }
  const int in_shared_end = min(steps, kInRegisters + a.shared_steps);
  const auto slot = [&](int step) { return (step - kInRegisters) * kThreads + threadIdx.x; };
  for (int s = kInRegisters; s < steps; s += kTogether) {
    Chunk chunk[kTogether];
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      chunk[u] = load(s + u, s + u < steps - a.l2_steps ? L2Policy::kPasses : L2Policy::kStays);
    }
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      magnitude = MaxMagnitude<E>(chunk[u], magnitude);
      if (s + u < in_shared_end) {
        const uint32_t(&w)[4] = chunk[u].word;
        kept[slot(s + u)] = make_uint4(w[0], w[1], w[2], w[3]);
      }
    }
  }
  const SumMax block = BlockReduce<false>({0.0f, LargerHalf<E>(magnitude)}, shared);
  float amax = block.max;
  if (gridDim.x > 1) {
    float* maxima = a.scale + 1;
    if (threadIdx.x == 0) {
      maxima[blockIdx.x] = amax;
    }
    cooperative_groups::this_grid().sync();
    amax = 0.0f;
    for (unsigned i = threadIdx.x; i < gridDim.x; i += kThreads) {
      amax = fmaxf(amax, __ldcg(maxima + i));
    }
    amax = BlockReduce<false>({0.0f, amax}, shared_again).max;
  }
  const float scale = ScaleOf(amax);
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    a.scale[0] = scale;
  }
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
  const auto store = [&](int step, const Chunk& chunk) {
    const int64_t i = first + step * step_chunks;
    float v[kChunk];
    Expand<E>(chunk, v);
    const uint2 codes = QuantizeChunk<E>(v, scale);
    if (i < a.chunks) {
      if constexpr (kBeyond) {
        StorePassing(a.q + i, codes);
      } else {
        a.q[i] = codes;
      }
    }
  };
  if constexpr (kBeyond) {  // what L2 holds comes first, the last read of it before the others
    for (int s = steps - kTogether; s > in_shared_end - kTogether; s -= kTogether) {
      Chunk chunk[kTogether];
#pragma unroll
      for (int u = 0; u < kTogether; ++u) {
        if (s + u >= in_shared_end) {
          chunk[u] = load(s + u, L2Policy::kPasses);
        }
      }
#pragma unroll
      for (int u = 0; u < kTogether; ++u) {
        if (s + u >= in_shared_end) {
          store(s + u, chunk[u]);
        }
      }
    }
  }
#pragma unroll 4
  for (int s = kInRegisters; s < in_shared_end; ++s) {
    const uint4 v = kept[slot(s)];
    store(s, {{v.x, v.y, v.z, v.w}});
  }
#pragma unroll
  for (int s = 0; s < kInRegisters; ++s) {
    store(s, in_registers[s]);
  }
}

using TensorKernel = void (*)(TensorArgs);

constexpr int kStepBytes = kThreads * sizeof(uint4);  // of a block

struct Residency {
  int blocks = 0;  // of the device at one time,
  int shared_steps = 0;
  int64_t l2_bytes = 0;
};

// Two blocks an SM share its memory. Asked of the runtime once for each kernel and device.
Residency FindResidency(TensorKernel kernel) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, Residency> known;
  int device = 0;
  CheckCuda(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard lock(mutex);
  Residency& found = known[{reinterpret_cast<const void*>(kernel), device}];
  if (found.blocks == 0) {
    int sms = 0;
    int per_sm = 0;
    int reserved = 0;
    CheckCuda(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device), "SM count");
    CheckCuda(cudaDeviceGetAttribute(&per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
              "shared memory");
    CheckCuda(cudaDeviceGetAttribute(&reserved, cudaDevAttrReservedSharedMemoryPerBlock, device),
              "reserved shared memory");
    constexpr int kStatic = 2 * 32 * sizeof(SumMax);
    const int shared_steps = (per_sm / 2 - reserved - kStatic) / kStepBytes;
    const int bytes = shared_steps * kStepBytes;
    CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "cudaFuncSetAttribute");
    int blocks = 0;
    CheckCuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, bytes),
              "occupancy");
    Check(blocks > 0, ErrorCode::kInternal, "quantize: no block fits an SM");
    int l2_bytes = 0;
    CheckCuda(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, device), "L2 size");
    // Each half of the chip holds a copy of what it reads.
    found = {std::min<int>(blocks * sms, kPerTensorFloats - 1), shared_steps, l2_bytes / 2};
  }
  return found;
}

template <class E>
TensorKernel ChooseKernel(bool contiguous, Residence residence) {
  if (residence == Residence::kBeyond) {
    return contiguous ? QuantizeTensor<E, true, Residence::kBeyond>
                      : QuantizeTensor<E, false, Residence::kBeyond>;
  }
  return contiguous ? QuantizeTensor<E, true, Residence::kOnChip>
                    : QuantizeTensor<E, false, Residence::kOnChip>;
}

TensorKernel ChooseKernel(QuantizeType type, bool contiguous, Residence residence) {
  return type == QuantizeType::kF16 ? ChooseKernel<F16>(contiguous, residence)
                                    : ChooseKernel<Bf16>(contiguous, residence);
}

}  // namespace

void QuantizePerTensor(const void* x, int64_t x_stride, QuantizeType type, int64_t m, int64_t k,
                       void* q, float* scale, cudaStream_t stream) {
  Check(k % 16 == 0 && x_stride % kChunk == 0, ErrorCode::kInvalidArgument, "quantize: K = ", k,
        " and row stride ", x_stride, ", expected multiples of 16 and 8");
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  Check(aligned(x) && aligned(q) && scale != nullptr, ErrorCode::kInvalidArgument,
        "quantize: x and q must be aligned to 16 bytes, and scale is required");
  if (m == 0 || k == 0) {
    return;
  }
  const bool contiguous = x_stride == k || m == 1;
  TensorArgs args;
  args.x = static_cast<const uint16_t*>(x);
  args.x_stride = x_stride;
  args.chunks = m * k / kChunk;
  args.row_chunks = k / kChunk;
  args.q = static_cast<uint2*>(q);
  args.scale = scale;
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t wanted = ceil_div(args.chunks, kThreads * kTogether);
  TensorKernel kernel = ChooseKernel(type, contiguous, Residence::kOnChip);
  Residency residency = FindResidency(kernel);
  int64_t blocks = std::min<int64_t>(residency.blocks, wanted);
  int64_t steps = ceil_div(args.chunks, blocks * kThreads) - kRegisterSteps<Residence::kOnChip>;
  if (steps > residency.shared_steps) {
    kernel = ChooseKernel(type, contiguous, Residence::kBeyond);
    residency = FindResidency(kernel);
    blocks = residency.blocks;
    steps = ceil_div(args.chunks, blocks * kThreads) - kRegisterSteps<Residence::kBeyond>;
  }
  args.shared_steps = static_cast<int>(std::clamp<int64_t>(steps, 0, residency.shared_steps));
  args.l2_steps = static_cast<int>(std::clamp<int64_t>(steps - args.shared_steps, 0,
                                                       residency.l2_bytes / (blocks * kStepBytes)));
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>(blocks));
  launch.blockDim = dim3(kThreads);
  launch.dynamicSmemBytes = args.shared_steps * kStepBytes;
  launch.stream = stream;
  // Blocks wait for each other: all must run at one time, beside whatever other streams do.
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeCooperative;
  attributes[0].val.cooperative = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  launch.attrs = attributes;
  launch.numAttrs = 2;
  CheckCuda(cudaLaunchKernelEx(&launch, kernel, args), "QuantizePerTensor");
}

}  // namespace dualfp::cuda
