#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/common/silu.cuh"
#include "dualfp/kernels/cuda/portable/quantize.cuh"
#include "dualfp/kernels/cuda/quantize.h"

namespace dualfp::cuda {
namespace {

// Threads of a block that holds kChunks chunks a thread.
constexpr int MostThreads(int chunks) { return chunks <= 2 ? 1024 : 512; }

// Chunk `chunk` of a row of what is to be quantized; the norm and its residual come later.
template <class E, QuantizeSource kSource>
__device__ __forceinline__ Chunk LoadSource(const QuantizeArgs& a, int64_t row, int chunk) {
  const uint16_t* x = static_cast<const uint16_t*>(a.x) + row * a.x_stride;
  const int k = chunk * kChunk;
  if constexpr (kSource == QuantizeSource::kPlain || kSource == QuantizeSource::kRmsNorm) {
    return LoadChunk(x + k);
  } else {
    constexpr bool kHalves = kSource == QuantizeSource::kSiluMulHalves;
    const Chunk in[2] = {LoadChunk(kHalves ? x + k : x + 2 * k),
                         LoadChunk(kHalves ? x + a.k + k : x + 2 * k + kChunk)};
    Chunk out;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kHalves) {
        const float2 gate = E::Unpack(in[0].word[i]);
        const float2 up = E::Unpack(in[1].word[i]);
        out.word[i] = E::Pack(Silu(gate.x) * up.x, Silu(gate.y) * up.y);
      } else {
        const float2 first = E::Unpack(in[i / 2].word[i % 2 * 2]);
        const float2 second = E::Unpack(in[i / 2].word[i % 2 * 2 + 1]);
        out.word[i] = E::Pack(Silu(first.x) * first.y, Silu(second.x) * second.y);
      }
    }
    return out;
  }
}

// Adds the residual to a row and stores the sum there. Loads come before stores, which the compiler
// must not reorder.
template <class E, int kChunks>
__device__ __forceinline__ void AddResidual(const QuantizeArgs& a, int64_t row, int chunks,
                                            Chunk (&held)[kChunks]) {
  constexpr int kBatch = kChunks < 4 ? kChunks : 4;
  uint4* residual = reinterpret_cast<uint4*>(static_cast<uint16_t*>(a.residual) + row * a.k);
#pragma unroll
  for (int first = 0; first < kChunks; first += kBatch) {
    Chunk other[kBatch];
#pragma unroll
    for (int c = 0; c < kBatch; ++c) {
      const int index = (first + c) * blockDim.x + threadIdx.x;
      if (index < chunks) {
        other[c] = LoadChunk(reinterpret_cast<const uint16_t*>(residual + index));
      }
    }
#pragma unroll
    for (int c = 0; c < kBatch; ++c) {
      const int index = (first + c) * blockDim.x + threadIdx.x;
      uint32_t(&w)[4] = held[first + c].word;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        w[i] = E::Add(w[i], other[c].word[i]);
      }
      if (index < chunks) {
        residual[index] = make_uint4(w[0], w[1], w[2], w[3]);
      }
    }
  }
}

// v * weight; the norm's factor follows, so that maxima can be taken before it is known.
struct NormWeight {
  float4 part[2];
};
__device__ __forceinline__ void ApplyWeight(const NormWeight& weight, float (&v)[kChunk]) {
  const float w[kChunk] = {weight.part[0].x, weight.part[0].y, weight.part[0].z, weight.part[0].w,
                           weight.part[1].x, weight.part[1].y, weight.part[1].z, weight.part[1].w};
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    v[i] *= w[i];
  }
}

__device__ __forceinline__ float LargestMagnitude(const float (&v)[kChunk]) {
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    largest = fmaxf(largest, fabsf(v[i]));
  }
  return largest;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int kThreadsOfSm = 1536;
#else
constexpr int kThreadsOfSm = 2048;
#endif

// Blocks of the most threads that registers must allow an SM.
template <QuantizeSource kSource, int kChunks>
constexpr int kBlocks = kChunks == 1 ? 1
                        : kChunks == 2
                            ? (kSource == QuantizeSource::kRmsNorm ? 1 : kThreadsOfSm / 1024)
                        : kChunks == 4 ? (kSource == QuantizeSource::kPlain ? 3 : 2)
                                       : 2;

// A block takes a row, held as it was stored, so that registers allow several blocks an SM.
template <class E, QuantizeSource kSource, int kChunks>
__global__ void __launch_bounds__(MostThreads(kChunks), kBlocks<kSource, kChunks>)
    QuantizeRows(const __grid_constant__ QuantizeArgs a) {
  constexpr bool kNorm = kSource == QuantizeSource::kRmsNorm;
  __shared__ SumMax shared[32];
  const int64_t row = blockIdx.x;
  const int chunks = static_cast<int>(a.k) / kChunk;
  const auto index = [&](int c) { return static_cast<int>(c * blockDim.x + threadIdx.x); };
  const auto load_weight = [&](int chunk) {
    const auto* parts = reinterpret_cast<const float4*>(a.weight + chunk * kChunk);
    return NormWeight{{__ldg(parts), __ldg(parts + 1)}};
  };
  // The norm's weight, which the previous kernel does not write, is there before x is; with more
  // chunks it is read twice, from L1, rather than held.
  constexpr bool kHoldsWeight = kNorm && kChunks == 1;
  NormWeight held_weight;
  if constexpr (kHoldsWeight) {
    if (index(0) < chunks) {
      held_weight = load_weight(index(0));
    }
  }
  const auto weight = [&](int chunk) { return kHoldsWeight ? held_weight : load_weight(chunk); };
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  Chunk held[kChunks];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (index(c) < chunks) {
      held[c] = LoadSource<E, kSource>(a, row, index(c));
    }
  }

  if constexpr (kNorm) {
    if (a.residual != nullptr) {
      AddResidual<E>(a, row, chunks, held);
    }
  }

  const bool grouped = a.group_stride != 0;
  const bool dynamic = a.static_scale == nullptr && a.fixed_scale == 0.0f;
  float scale = a.static_scale == nullptr ? a.fixed_scale : __ldg(a.static_scale);
  float norm = 1.0f;
  if (kNorm || (dynamic && !grouped)) {
    SumMax part{0.0f, 0.0f};
    uint32_t magnitude = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if constexpr (kNorm) {
        if (index(c) < chunks) {
          float v[kChunk];
          Expand<E>(held[c], v);
#pragma unroll
          for (int i = 0; i < kChunk; ++i) {
            part.sum = fmaf(v[i], v[i], part.sum);
          }
          ApplyWeight(weight(index(c)), v);
          part.max = fmaxf(part.max, LargestMagnitude(v));
        }
      } else {
        magnitude = MaxMagnitude<E>(held[c], magnitude);
      }
    }
    if constexpr (!kNorm) {
      part.max = LargerHalf<E>(magnitude);
    }
    part = BlockReduce<kNorm>(part, shared);
    if constexpr (kNorm) {
      norm = rsqrtf(part.sum / static_cast<float>(a.k) + a.epsilon);
    }
    if (dynamic) {
      // Rounding is monotone: the largest product is that of the largest factor.
      scale = ScaleOf(part.max * norm);
    }
  }
  if (!grouped && threadIdx.x == 0) {
    a.scale[row] = scale;
  }
  uint2* q = reinterpret_cast<uint2*>(static_cast<uint8_t*>(a.q) + row * a.k);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    float v[kChunk];
    Expand<E>(held[c], v);
    if constexpr (kNorm) {
      if (index(c) < chunks) {
        ApplyWeight(weight(index(c)), v);
      }
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        v[i] *= norm;
      }
    }
    if (grouped) {
      // Sixteen lanes hold a group, since rows and warps begin with one.
      scale = ScaleOf(LanesMax<16>(LargestMagnitude(v)));
      if (threadIdx.x % 16 == 0 && index(c) < chunks) {
        a.scale[index(c) / 16 * a.group_stride + row] = scale;
      }
    }
    const uint2 codes = QuantizeChunk<E>(v, scale);
    if (index(c) < chunks) {
      q[index(c)] = codes;
    }
  }
}

using RowsKernel = void (*)(QuantizeArgs);

template <class E, QuantizeSource kSource>
RowsKernel ChooseRows(int chunks) {
  return chunks == 1   ? QuantizeRows<E, kSource, 1>
         : chunks == 2 ? QuantizeRows<E, kSource, 2>
         : chunks == 4 ? QuantizeRows<E, kSource, 4>
                       : QuantizeRows<E, kSource, 8>;
}

template <class E>
RowsKernel ChooseRows(QuantizeSource source, int chunks) {
  switch (source) {
    case QuantizeSource::kPlain:
      return ChooseRows<E, QuantizeSource::kPlain>(chunks);
    case QuantizeSource::kRmsNorm:
      return ChooseRows<E, QuantizeSource::kRmsNorm>(chunks);
    case QuantizeSource::kSiluMul:
      return ChooseRows<E, QuantizeSource::kSiluMul>(chunks);
    default:
      return ChooseRows<E, QuantizeSource::kSiluMulHalves>(chunks);
  }
}

int Threads(int64_t k, int chunks) {
  const int64_t lanes = (k / kChunk + chunks - 1) / chunks;
  return static_cast<int>((lanes + 31) / 32 * 32);
}

// Measured (docs/kernels_notebook.md). Few rows: one load a thread, for the latency. Many rows:
// enough bytes in flight; the sources that compute more want more threads.
int ChooseChunks(const QuantizeArgs& a) {
  constexpr int64_t kFewRows = 264;
  const bool plain = a.source == QuantizeSource::kPlain;
  const bool norm = a.source == QuantizeSource::kRmsNorm;
  int chunks = a.m <= kFewRows || norm ? 1 : 2;
  while (Threads(a.k, chunks) > (chunks == 2 && (plain || norm) ? 512 : MostThreads(chunks))) {
    chunks *= 2;
  }
  return chunks;
}

bool Aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

void Quantize(const QuantizeArgs& args, cudaStream_t stream, bool overlap) {
  Check(args.k % 16 == 0 && args.k >= 16 && args.k <= kQuantizeMaxK, ErrorCode::kInvalidArgument,
        "quantize: K = ", args.k, ", expected a multiple of 16 up to ", kQuantizeMaxK);
  const bool norm = args.source == QuantizeSource::kRmsNorm;
  Check(args.q != nullptr && args.scale != nullptr && args.x != nullptr &&
            (!norm || args.weight != nullptr),
        ErrorCode::kInvalidArgument, "quantize: x, q, scale", norm ? " and weight" : "",
        " are required");
  Check(Aligned(args.x) && Aligned(args.q) && Aligned(args.residual) && Aligned(args.weight) &&
            args.x_stride % kChunk == 0,
        ErrorCode::kInvalidArgument,
        "quantize: rows of x, residual, weight and q must start at multiples of 16 bytes");
  Check(args.group_stride == 0 || (args.group_stride >= args.m && args.static_scale == nullptr),
        ErrorCode::kInvalidArgument, "quantize: group stride ", args.group_stride, " for ", args.m,
        " rows with a ", args.static_scale == nullptr ? "dynamic" : "static", " scale");
  const int chunks = args.chunks != 0 ? args.chunks : ChooseChunks(args);
  Check((chunks == 1 || chunks == 2 || chunks == 4 || chunks == 8) &&
            Threads(args.k, chunks) <= MostThreads(chunks),
        ErrorCode::kInvalidArgument, "quantize: ", chunks, " chunks a thread for K = ", args.k);
  if (args.m == 0) {
    return;
  }
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>(args.m));
  launch.blockDim = dim3(Threads(args.k, chunks));
  launch.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  launch.attrs = &attribute;
  launch.numAttrs = overlap ? 1 : 0;
  const RowsKernel kernel = args.type == QuantizeType::kF16 ? ChooseRows<F16>(args.source, chunks)
                                                            : ChooseRows<Bf16>(args.source, chunks);
  CheckCuda(cudaLaunchKernelEx(&launch, kernel, args), "Quantize");
}

}  // namespace dualfp::cuda
