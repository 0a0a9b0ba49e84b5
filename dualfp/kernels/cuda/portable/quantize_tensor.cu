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
constexpr int kUnroll = 4;       // chunks that a thread loads at a time
constexpr int kInRegisters = 1;  // rounds of kUnroll that are kept there

struct TensorArgs {
  const uint16_t* x;
  int64_t x_stride;
  int64_t chunks;  // of all rows
  int64_t row_chunks;
  uint2* q;
  float* scale;  // then a maximum of each block
  int shared_rounds;
  int l2_steps = 0;
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

// The chunks of a block in rounds; the first rounds are kept in registers, the next in shared
// memory, and what L2 may still hold is read again last-read first.
template <class E, bool kContiguous>
__global__ void __launch_bounds__(kThreads, 2)
    QuantizeTensor(const __grid_constant__ TensorArgs a) {
  extern __shared__ uint4 kept[];
  __shared__ SumMax shared[32];
  __shared__ SumMax shared_again[32];
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  const int64_t round_chunks = int64_t{gridDim.x} * kThreads * kUnroll;
  const int64_t first = int64_t{blockIdx.x} * kThreads * kUnroll + threadIdx.x;
  const int rounds = static_cast<int>((a.chunks + round_chunks - 1) / round_chunks);
  const auto load = [&](int round, Chunk(&chunk)[kUnroll]) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t i = first + round * round_chunks + u * kThreads;
      if (i < a.chunks) {
        chunk[u] = LoadChunk(Address<kContiguous>(a, i));
      }
    }
  };
  uint32_t magnitude = 0;
  const auto measure = [&](const Chunk(&chunk)[kUnroll]) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      magnitude = MaxMagnitude<E>(chunk[u], magnitude);
    }
  };
  const auto slot = [&](int round, int u) {
    return ((round - kInRegisters) * kUnroll + u) * kThreads + threadIdx.x;
  };

  Chunk in_registers[kInRegisters][kUnroll];
#pragma unroll
  for (int r = 0; r < kInRegisters; ++r) {
    load(r, in_registers[r]);
    measure(in_registers[r]);
  }
  const int in_shared_end = min(rounds, kInRegisters + a.shared_rounds);
  for (int r = kInRegisters; r < rounds; ++r) {
    Chunk chunk[kUnroll];
    load(r, chunk);
    measure(chunk);
    if (r < in_shared_end) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const uint32_t(&w)[4] = chunk[u].word;
        kept[slot(r, u)] = make_uint4(w[0], w[1], w[2], w[3]);
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
  const auto store = [&](int round, const Chunk(&chunk)[kUnroll]) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t i = first + round * round_chunks + u * kThreads;
      float v[kChunk];
      Expand<E>(chunk[u], v);
      const uint2 codes = QuantizeChunk<E>(v, scale);
      if (i < a.chunks) {
        a.q[i] = codes;
      }
    }
  };
  for (int r = rounds - 1; r >= in_shared_end; --r) {
    Chunk chunk[kUnroll];
    load(r, chunk);
    store(r, chunk);
  }
  for (int r = in_shared_end - 1; r >= kInRegisters; --r) {
    Chunk chunk[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint4 v = kept[slot(r, u)];
      chunk[u] = {{v.x, v.y, v.z, v.w}};
    }
    store(r, chunk);
  }
#pragma unroll
  for (int r = 0; r < kInRegisters; ++r) {
    store(r, in_registers[r]);
  }
}


// ---- new
template <bool kHints>
__device__ __forceinline__ Chunk LoadHinted(const uint16_t* p, uint64_t policy) {
  if constexpr (!kHints) {
    return LoadChunk(p);
  } else {
    Chunk c;
    asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v4.b32 {%0, %1, %2, %3}, [%4], %5;"
                 : "=r"(c.word[0]), "=r"(c.word[1]), "=r"(c.word[2]), "=r"(c.word[3])
                 : "l"(p), "l"(policy));
    return c;
  }
}
template <bool kHints>
__device__ __forceinline__ void StoreHinted(uint2* p, uint2 v, uint64_t policy) {
  if constexpr (!kHints) {
    *p = v;
  } else {
    asm volatile("st.global.L2::cache_hint.v2.b32 [%0], {%1, %2}, %3;" ::"l"(p), "r"(v.x), "r"(v.y),
                 "l"(policy)
                 : "memory");
  }
}
constexpr uint64_t kFirst = 0x12F0000000000000;
constexpr uint64_t kLast = 0x14F0000000000000;

template <class E, bool kContiguous, int kRegisterSteps, bool kHints, int kTogether, int kBlockThreads = 512>
__global__ void __launch_bounds__(kBlockThreads, 1024 / kBlockThreads)
    QuantizeSteps(const __grid_constant__ TensorArgs a) {
  extern __shared__ uint4 kept[];
  __shared__ SumMax shared[32];
  __shared__ SumMax shared_again[32];
  asm volatile("griddepcontrol.wait;" ::: "memory");
  const int64_t step_chunks = int64_t{gridDim.x} * kBlockThreads;
  const int even_groups = static_cast<int>(a.chunks / (4 * step_chunks));
  const auto index = [&](int step) -> int64_t {
    const bool even = step < 4 * even_groups;
    const int64_t block = even ? int64_t{step / 4} * gridDim.x * 4 + blockIdx.x * 4 + step % 4
                               : int64_t{step} * gridDim.x + blockIdx.x;
    return block * kBlockThreads + threadIdx.x;
  };
  const int steps = static_cast<int>((a.chunks + step_chunks - 1) / step_chunks);
  const auto load = [&](int step, uint64_t policy) {
    const int64_t i = index(step);
    return i < a.chunks ? LoadHinted<kHints>(Address<kContiguous>(a, i), policy) : Chunk();
  };
  uint32_t magnitude = 0;
  Chunk in_registers[kRegisterSteps];
#pragma unroll
  for (int s = 0; s < kRegisterSteps; ++s) {
    in_registers[s] = load(s, kFirst);
  }
#pragma unroll
  for (int s = 0; s < kRegisterSteps; ++s) {
    magnitude = MaxMagnitude<E>(in_registers[s], magnitude);
  }
  const int shared_end = min(steps, kRegisterSteps + a.shared_rounds);
  const int last_begin = steps - a.l2_steps;
  for (int s = kRegisterSteps; s < steps; s += kTogether) {
    Chunk chunk[kTogether];
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      chunk[u] = load(s + u, s + u < last_begin ? kFirst : kLast);
    }
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      magnitude = MaxMagnitude<E>(chunk[u], magnitude);
      if (s + u < shared_end) {
        const uint32_t(&w)[4] = chunk[u].word;
        kept[(s + u - kRegisterSteps) * kBlockThreads + threadIdx.x] = make_uint4(w[0], w[1], w[2], w[3]);
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
    for (unsigned i = threadIdx.x; i < gridDim.x; i += kBlockThreads) {
      amax = fmaxf(amax, __ldcg(maxima + i));
    }
    amax = BlockReduce<false>({0.0f, amax}, shared_again).max;
  }
  const float scale = ScaleOf(amax);
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    a.scale[0] = scale;
  }
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  const auto store = [&](int step, const Chunk& chunk) {
    const int64_t i = index(step);
    float v[kChunk];
    Expand<E>(chunk, v);
    const uint2 codes = QuantizeChunk<E>(v, scale);
    if (i < a.chunks) {
      StoreHinted<kHints>(a.q + i, codes, kFirst);
    }
  };
  // What L2 may still hold is read again last-read first.
  for (int s = steps - kTogether; s > shared_end - kTogether; s -= kTogether) {
    Chunk chunk[kTogether];
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      if (s + u >= shared_end) {
        chunk[u] = load(s + u, kFirst);
      }
    }
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      if (s + u >= shared_end) {
        store(s + u, chunk[u]);
      }
    }
  }
#pragma unroll 4
  for (int s = kRegisterSteps; s < shared_end; ++s) {
    const uint4 v = kept[(s - kRegisterSteps) * kBlockThreads + threadIdx.x];
    store(s, {{v.x, v.y, v.z, v.w}});
  }
#pragma unroll
  for (int s = 0; s < kRegisterSteps; ++s) {
    store(s, in_registers[s]);
  }
}

using TensorKernel = void (*)(TensorArgs);

struct Residency {
  int blocks;  // of the device at one time, with shared memory for...
  int shared_bytes;
};

// Two blocks an SM share its memory. Asked of the runtime once for each kernel and device.
Residency FindResidency(TensorKernel kernel, int variant) {
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
    const int threads = variant == 2 ? 1024 : kThreads;
    const int kRound = threads * (variant == 0 ? kUnroll : 1) * sizeof(uint4);
    const int bytes = (per_sm / (1024 / threads) - reserved - kStatic) / kRound * kRound;
    CheckCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "cudaFuncSetAttribute");
    int blocks = 0;
    CheckCuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, bytes),
              "occupancy");
    Check(blocks > 0, ErrorCode::kInternal, "quantize: no block fits an SM");
    found = {std::min<int>(blocks * sms, kPerTensorFloats - 1), bytes};
  }
  return found;
}

template <class E>
TensorKernel ChooseKernel(bool contiguous, int variant) {
  switch (variant) {
    case 1: return contiguous ? QuantizeSteps<E, true, 4, true, 4> : QuantizeSteps<E, false, 4, true, 4>;
    case 2: return contiguous ? QuantizeSteps<E, true, 4, true, 4, 1024> : QuantizeSteps<E, false, 4, true, 4, 1024>;
    case 3: return contiguous ? QuantizeSteps<E, true, 4, false, 4> : QuantizeSteps<E, false, 4, false, 4>;
    default: return contiguous ? QuantizeTensor<E, true> : QuantizeTensor<E, false>;
  }
}

}  // namespace

int quantize_variant = 0;
int quantize_l2_mb = 24;
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
  const TensorKernel kernel =
      type == QuantizeType::kF16 ? ChooseKernel<F16>(contiguous, quantize_variant) : ChooseKernel<Bf16>(contiguous, quantize_variant);
  const Residency residency = FindResidency(kernel, quantize_variant);
  TensorArgs args;
  args.x = static_cast<const uint16_t*>(x);
  args.x_stride = x_stride;
  args.chunks = m * k / kChunk;
  args.row_chunks = k / kChunk;
  args.q = static_cast<uint2*>(q);
  args.scale = scale;
  const bool old = quantize_variant == 0;
  const int in_registers = old ? kInRegisters : 4;
  const int threads = quantize_variant == 2 ? 1024 : kThreads;
  const int64_t kBlockChunks = int64_t{threads} * (old ? kUnroll : 1);
  const int64_t wanted = (args.chunks + kBlockChunks - 1) / kBlockChunks;
  const int blocks = static_cast<int>(std::min<int64_t>(residency.blocks, old ? wanted : (wanted + 3) / 4));
  const int64_t rounds = (wanted + blocks - 1) / blocks;
  const int64_t kRoundBytes = kBlockChunks * sizeof(uint4);
  args.shared_rounds = static_cast<int>(std::min<int64_t>(
      residency.shared_bytes / kRoundBytes, std::max<int64_t>(0, rounds - in_registers)));
  const int64_t beyond = rounds - in_registers - args.shared_rounds;
  args.l2_steps = static_cast<int>(std::max<int64_t>(0, std::min<int64_t>(beyond, quantize_l2_mb * int64_t{1000000} / (blocks * kRoundBytes))));
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(blocks);
  launch.blockDim = dim3(threads);
  launch.dynamicSmemBytes = args.shared_rounds * kRoundBytes;
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
