#include <algorithm>

#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/nested12_planes.h"
#include "dualfp/numeric/nested12.h"

namespace dualfp::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kChunk = 32;                     // columns of a lane: 16 bytes of nibbles
constexpr uint32_t kZeroNibbles = 0x77887788;  // under upper bytes of zero
constexpr uint32_t kMagnitudes = 0x7fff7fff;   // of two weights
constexpr uint32_t kInfinity = 0x7f80;

__device__ __forceinline__ uint32_t LargestHalf(uint32_t pair) {
  return max(pair & 0xFFFF, pair >> 16);
}

// 16 U7 + nibble of two weights, each of which may be tiny; lists those that are rounded.
__device__ __noinline__ uint32_t CodeTinyPair(uint32_t pair, int shift, int64_t index,
                                              const TinySink& sink) {
  uint32_t moved = 0;
  for (int i = 0; i < 2; ++i) {
    const auto w = static_cast<uint16_t>(pair >> 16 * i);
    const Nested12Weight weight = Nested12Split(w, shift, i == 1);
    moved |= (Nested12Decode(weight.bits, i == 1) + Nested12Bias(i == 1)) << 16 * i;
    if (weight.remainder != 0.0f) {
      const auto slot = static_cast<int64_t>(atomicAdd(&sink.counts->tiny, 1));
      if (slot < sink.capacity) {
        sink.index[slot] = index + i;
        sink.bf16[slot] = FloatToBf16(ScaleByPowerOfTwo(weight.remainder, shift));
      }
    }
  }
  return moved;
}

// Bytes 0, 2 of p, then of q.
__device__ __forceinline__ uint32_t EvenBytes(uint32_t p, uint32_t q) {
  return __byte_perm(p, q, 0x6420);
}

// The 16 weights of a k16 step as upper bytes and as nibbles in the low halves of bytes, as GPU
// memory has them.
struct StepBits {
  uint32_t upper[4];
  uint32_t nibbles[4];
};

// What a row's magnitudes are moved by.
struct RowCode {
  int shift;
  uint32_t least;     // from this magnitude on, w and v are normal and C is a sum
  uint32_t to_moved;  // of a pair's magnitudes, to 16 U7 + nibble

  __device__ explicit RowCode(uint32_t largest)
      : shift(Nested12RowShift(static_cast<uint16_t>(largest))) {
    const int to_c = 128 * shift - static_cast<int>(kNested12BaseBits);
    least = static_cast<uint32_t>(max(static_cast<int>(kNested12FirstNormal) - to_c, 128));
    to_moved = static_cast<uint32_t>(to_c + static_cast<int>(Nested12Bias(false))) +
               (static_cast<uint32_t>(to_c + static_cast<int>(Nested12Bias(true))) << 16);
  }
};

// `index`: of the first of them in the sink.
__device__ __forceinline__ StepBits CodeStep(const uint4& first, const uint4& second,
                                             const RowCode& code, int64_t index,
                                             const TinySink& sink) {
  const uint32_t pairs[8] = {first.x,  first.y,  first.z,  first.w,
                             second.x, second.y, second.z, second.w};
  uint32_t moved[8];
  uint32_t smallest = kMagnitudes;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t magnitude = pairs[i] & kMagnitudes;
    smallest = __vminu2(smallest, magnitude);
    moved[i] = magnitude + code.to_moved;
  }
  if (min(smallest & 0xFFFF, smallest >> 16) < code.least) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t magnitude = pairs[i] & kMagnitudes;
      if (min(magnitude & 0xFFFF, magnitude >> 16) < code.least) {
        moved[i] = CodeTinyPair(pairs[i], code.shift, index + 2 * i, sink);
      }
    }
  }
  StepBits bits;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t p = (moved[i] >> 4 & 0x007f007fu) | (pairs[i] >> 8 & 0x00800080u);
    const uint32_t q = (moved[i + 4] >> 4 & 0x007f007fu) | (pairs[i + 4] >> 8 & 0x00800080u);
    bits.upper[i] = EvenBytes(p, q);
    bits.nibbles[i] = EvenBytes(moved[i], moved[i + 4]) & 0x0f0f0f0fu;
  }
  return bits;
}

// Neighbouring lanes want two vectors each that lie one after the other in memory, and load or
// store vectors 0 and 1 of the even lane with one instruction, those of the odd lane with the next:
// whole sectors of 32 bytes. This is the way from what they want to what they store and back.
__device__ __forceinline__ void TradeVectors(uint4& first, uint4& second) {
  const bool odd = threadIdx.x % 2 != 0;
  const uint4 own = odd ? first : second;
  const uint4 other =
      make_uint4(__shfl_xor_sync(0xFFFFFFFFu, own.x, 1), __shfl_xor_sync(0xFFFFFFFFu, own.y, 1),
                 __shfl_xor_sync(0xFFFFFFFFu, own.z, 1), __shfl_xor_sync(0xFFFFFFFFu, own.w, 1));
  (odd ? first : second) = other;
}

constexpr int kMostThreads = 512;

// A block takes a row, of which each thread keeps kChunks times 32 columns in registers, or, where
// kChunks is 0, which it reads a second time.
template <int kChunks>
__global__ void __launch_bounds__(kMostThreads)
    SplitKernel(const uint4* w, int k, uint4* upper, uint4* nibbles, float* row_scale,
                const TinySink sink, int64_t first_row, int64_t rows) {
  const int64_t row = blockIdx.x;
  const auto block = static_cast<int>(blockDim.x);
  const uint4* in = w + row * (k / 8);
  const int chunks = (k + kNibbleBlock - 1) / kNibbleBlock * 4;
  // All lanes of a warp have chunks, and neighbours lie in one row.
  const bool trades = chunks % 32 == 0;
  const int odd = threadIdx.x % 2;
  const auto load = [&](int chunk, uint4(&v)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const int vector = chunk * (kChunk / 8) + i;
      const int first = trades ? vector - 3 * odd : vector;
      const int second = trades ? first + 4 : vector + 1;
      v[i] = first < k / 8 ? in[first] : make_uint4(0, 0, 0, 0);
      v[i + 1] = second < k / 8 ? in[second] : make_uint4(0, 0, 0, 0);
    }
    if (trades) {
      TradeVectors(v[0], v[1]);
      TradeVectors(v[2], v[3]);
    }
  };
  uint4 kept[kChunks == 0 ? 1 : kChunks][4];
  uint32_t pair = 0;
  const auto take = [&pair](const uint4& v) {
    pair = __vmaxu2(pair, __vmaxu2(__vmaxu2(v.x & kMagnitudes, v.y & kMagnitudes),
                                   __vmaxu2(v.z & kMagnitudes, v.w & kMagnitudes)));
  };
  if constexpr (kChunks == 0) {
    for (int i = threadIdx.x; i < k / 8; i += block) {
      take(in[i]);
    }
  } else {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      load(threadIdx.x + c * block, kept[c]);
    }
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        take(kept[c][i]);
      }
    }
  }
  __shared__ uint32_t of_warps[kMostThreads / 32];
  const uint32_t own = __reduce_max_sync(0xFFFFFFFFu, LargestHalf(pair));
  if (threadIdx.x % 32 == 0) {
    of_warps[threadIdx.x / 32] = own;
  }
  __syncthreads();
  uint32_t largest = 0;
  for (int i = 0; i < block / 32; ++i) {
    largest = max(largest, of_warps[i]);
  }
  const int64_t first_index = (first_row + row) * k;
  if (largest >= kInfinity) {
    for (int i = threadIdx.x; i < k; i += block) {
      if ((reinterpret_cast<const uint16_t*>(in)[i] & 0x7fff) >= kInfinity) {
        atomicAdd(&sink.counts->non_finite, 1);
        atomicMax(&sink.counts->not_before, ~static_cast<unsigned long long>(first_index + i));
      }
    }
    return;
  }
  const RowCode code(largest);
  if (threadIdx.x == 0) {
    row_scale[row] = ScaleByPowerOfTwo(1.0f, -code.shift);
  }
  const auto write = [&](int chunk, const uint4(&v)[4]) {
    const int column = chunk * kChunk;
    StepBits steps[2];
    uint4 u[2];
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const int begin = column + step * 16;
      if (begin < k) {
        steps[step] = CodeStep(v[2 * step], v[2 * step + 1], code, first_index + begin, sink);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          steps[step].upper[i] = 0;
          steps[step].nibbles[i] = kZeroNibbles & 0x0f0f0f0f;
        }
      }
      u[step] = make_uint4(steps[step].upper[0], steps[step].upper[1], steps[step].upper[2],
                           steps[step].upper[3]);
    }
    if (trades) {
      TradeVectors(u[0], u[1]);
    }
    const int vector = column / 16;
    const int first = trades ? vector - odd : vector;
    const int second = trades ? first + 2 : vector + 1;
    if (first < k / 16) {
      upper[row * (k / 16) + first] = u[0];
    }
    if (second < k / 16) {
      upper[row * (k / 16) + second] = u[1];
    }
    uint32_t both[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      both[i] = steps[0].nibbles[i] | steps[1].nibbles[i] << 4;
    }
    nibbles[(int64_t{chunk / 4} * rows + first_row + row) * 4 + chunk % 4] =
        make_uint4(both[0], both[1], both[2], both[3]);
  };
  for (int chunk = threadIdx.x; kChunks == 0 && chunk < chunks; chunk += block) {
    uint4 v[4];
    load(chunk, v);
    write(chunk, v);
  }
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (static_cast<int>(threadIdx.x) + c * block < chunks) {
      write(threadIdx.x + c * block, kept[c]);
    }
  }
}

__device__ __forceinline__ int ShiftOf(float row_scale) {
  // 2^-127 and 2^-126 - 2^127: subnormal and normal.
  const auto exponent = static_cast<int>(__float_as_uint(row_scale) >> 23);
  return exponent == 0 ? 127 : 127 - exponent;
}

// The weight of a C that may be tiny.
__device__ __noinline__ uint16_t MergeOne(uint32_t code, bool negative, int shift) {
  const uint16_t fp16 = static_cast<uint16_t>((negative ? 0x8000 : 0) | code << 3);
  return FloatToBf16(ScaleByPowerOfTwo(Fp16ToFloat(fp16), -shift));
}

// What a row's codes are moved by: RowCode's inverse.
struct RowDecode {
  int shift;
  uint32_t least;    // from this C on, w is C moved
  uint32_t to_bits;  // of a pair's C

  __device__ explicit RowDecode(int s) : shift(s) {
    const int moved = static_cast<int>(kNested12BaseBits) - 128 * shift;
    least = static_cast<uint32_t>(max(static_cast<int>(kNested12FirstNormal), 128 - moved));
    to_bits = static_cast<uint32_t>(moved) + (static_cast<uint32_t>(moved) << 16);
  }
};

// Two weights of which any may be tiny.
__device__ __noinline__ uint32_t MergeTinyPair(uint32_t c, uint32_t signs, int shift) {
  return MergeOne(c & 0xFFFF, (signs & 0x8000) != 0, shift) |
         static_cast<uint32_t>(MergeOne(c >> 16, (signs >> 16) != 0, shift)) << 16;
}

// The 16 weights of a k16 step, from upper bytes and from nibbles in the low halves of bytes.
__device__ __forceinline__ void MergeStep(const uint4& upper, const uint32_t (&low)[4],
                                          const RowDecode& row, uint4& first, uint4& second) {
  const uint32_t u[4] = {upper.x, upper.y, upper.z, upper.w};
  uint32_t c[8];
  uint32_t signs[8];
  uint32_t out[8];
  uint32_t smallest = 0xFFFFFFFF;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {  // columns 2i, 2i + 1 and those 8 further on
      // Two bytes each into halves of a word.
      const uint32_t spread = __byte_perm(u[i], 0, h == 0 ? 0x4140 : 0x4342);
      const uint32_t n2 = __byte_perm(low[i], 0, h == 0 ? 0x4140 : 0x4342);
      const int at = i + 4 * h;
      c[at] = ((spread & 0x007f007fu) << 4 | n2) - 0x00070008u;
      signs[at] = (spread & 0x00800080u) << 8;
      smallest = __vminu2(smallest, c[at]);
      out[at] = (c[at] + row.to_bits) | signs[at];
    }
  }
  if (min(smallest & 0xFFFF, smallest >> 16) < row.least) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (min(c[i] & 0xFFFF, c[i] >> 16) < row.least) {
        out[i] = MergeTinyPair(c[i], signs[i], row.shift);
      }
    }
  }
  first = make_uint4(out[0], out[1], out[2], out[3]);
  second = make_uint4(out[4], out[5], out[6], out[7]);
}

// A thread takes 32 columns of a row.
__global__ void __launch_bounds__(kThreads)
    MergeKernel(const uint4* upper, const uint4* nibbles, const float* row_scale, int64_t n, int k,
                uint4* w) {
  const int chunks = (k + kChunk - 1) / kChunk;
  const auto total = static_cast<uint32_t>(n * chunks);
  const bool trades = k % (2 * kChunk) == 0;  // then N * chunks is a multiple of 32
  const int odd = threadIdx.x % 2;
  for (uint32_t item = blockIdx.x * kThreads + threadIdx.x; item < total;
       item += gridDim.x * kThreads) {
    const int64_t row = item / static_cast<uint32_t>(chunks);
    const auto chunk = static_cast<int>(item - static_cast<uint32_t>(row) * chunks);
    const uint4 packed = nibbles[(int64_t{chunk / 4} * n + row) * 4 + chunk % 4];
    const uint32_t both[4] = {packed.x, packed.y, packed.z, packed.w};
    const RowDecode decode(ShiftOf(row_scale[row]));
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const int column = chunk * kChunk + step * 16;
      if (column >= k) {
        break;
      }
      uint32_t low[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        low[i] = both[i] >> 4 * step & 0x0f0f0f0fu;
      }
      uint4 first;
      uint4 second;
      MergeStep(upper[(row * k + column) / 16], low, decode, first, second);
      uint4* target = w + (row * k + column) / 8;
      if (trades) {
        TradeVectors(first, second);
        target -= 3 * odd;
        target[0] = first;
        target[4] = second;
      } else {
        target[0] = first;
        target[1] = second;
      }
    }
  }
}

// The list of 64 rows a warp: adds to the weights that are there.
__global__ void __launch_bounds__(kThreads)
    MergeTinyKernel(const TinyWeight* tiny, const float* row_scale, int64_t lists, int64_t k,
                    uint16_t* w) {
  const int64_t list = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (list >= lists) {
    return;
  }
  for (int64_t batch = list; batch != kNoTinyWeight;
       batch = tiny[batch * kTinyBatch + kTinyBatch - 1].k) {
    const TinyWeight weight = tiny[batch * kTinyBatch + threadIdx.x % 32];
    if (threadIdx.x % 32 < kTinyBatch - 1 && weight.k != kNoTinyWeight) {
      const int64_t row = list * kTinyRows + weight.row;
      uint16_t& target = w[row * k + weight.k];
      const float lack = ScaleByPowerOfTwo(Bf16ToFloat(weight.bf16), -ShiftOf(row_scale[row]));
      target = FloatToBf16(Bf16ToFloat(target) + lack);
    }
  }
}

// A thread takes 32 columns of a row.
__global__ void __launch_bounds__(kThreads)
    NibblesToDeviceKernel(const uint8_t* in, int64_t n, int k, uint4* out) {
  const int chunks = (k + kNibbleBlock - 1) / kNibbleBlock * 4;
  const int64_t total = n * chunks;
  for (int64_t item = blockIdx.x * int64_t{kThreads} + threadIdx.x; item < total;
       item += int64_t{gridDim.x} * kThreads) {
    const int64_t row = item / chunks;
    const auto chunk = static_cast<int>(item - row * chunks);
    uint32_t steps[2][4];  // nibbles in low halves of bytes
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const int column = chunk * kChunk + step * 16;
      uint2 bytes = make_uint2(0x78787878, 0x78787878);  // zeros: even columns in low halves
      if (column < k) {
        bytes = *reinterpret_cast<const uint2*>(in + (row * k + column) / 2);
      }
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        const uint32_t p = bytes.x >> 8 * t & 0xFF;
        const uint32_t q = bytes.y >> 8 * t & 0xFF;
        steps[step][t] = (p & 15) | (p >> 4) << 8 | (q & 15) << 16 | (q >> 4) << 24;
      }
    }
    out[(int64_t{chunk / 4} * n + row) * 4 + chunk % 4] =
        make_uint4(steps[0][0] | steps[1][0] << 4, steps[0][1] | steps[1][1] << 4,
                   steps[0][2] | steps[1][2] << 4, steps[0][3] | steps[1][3] << 4);
  }
}

int Grid(int64_t items) {
  constexpr int64_t kMost = 1 << 16;
  return static_cast<int>(std::min((items + kThreads - 1) / kThreads, kMost));
}

void CheckShape(int64_t n, int64_t k, std::initializer_list<const void*> pointers) {
  Check(n % 16 == 0 && k % 16 == 0 && k < kNoTinyWeight && n * k < int64_t{1} << 35,
        ErrorCode::kInvalidArgument, "Nested12 planes: N = ", n, ", K = ", k,
        ", expected multiples of 16 and less than 2^35 weights");
  for (const void* pointer : pointers) {
    Check(reinterpret_cast<uintptr_t>(pointer) % 16 == 0, ErrorCode::kInvalidArgument,
          "Nested12 planes: pointers must be aligned to 16 bytes");
  }
}

}  // namespace

std::vector<TinyWeight> MakeTinyBatches(int64_t n, int64_t k, std::span<const int64_t> index,
                                        std::span<const uint16_t> bf16) {
  Check(index.size() == bf16.size(), ErrorCode::kInvalidArgument, "MakeTinyBatches: ", index.size(),
        " indices of ", bf16.size(), " weights");
  constexpr int kPlaces = kTinyBatch - 1;
  const int64_t lists = (n + kTinyRows - 1) / kTinyRows;
  std::vector<TinyWeight> batches(lists * kTinyBatch, TinyWeight{kNoTinyWeight, 0, 0});
  std::vector<TinyWeight> list;
  size_t next = 0;
  for (int64_t i = 0; i < lists; ++i) {
    list.clear();
    for (; next < index.size() && index[next] / k < std::min((i + 1) * kTinyRows, n); ++next) {
      list.push_back({static_cast<uint32_t>(index[next] % k),
                      static_cast<uint16_t>(index[next] / k % kTinyRows), bf16[next]});
    }
    std::sort(list.begin(), list.end(), [](const TinyWeight& a, const TinyWeight& b) {
      return a.k != b.k ? a.k < b.k : a.row < b.row;
    });
    size_t batch = i;
    for (size_t begin = 0; begin < list.size(); begin += kPlaces) {
      if (begin > 0) {
        const size_t further = batches.size() / kTinyBatch;
        batches[batch * kTinyBatch + kPlaces].k = static_cast<uint32_t>(further);
        batch = further;
        batches.resize(batches.size() + kTinyBatch, TinyWeight{kNoTinyWeight, 0, 0});
      }
      const size_t count = std::min<size_t>(kPlaces, list.size() - begin);
      std::copy_n(list.begin() + static_cast<int64_t>(begin), count,
                  batches.begin() + static_cast<int64_t>(batch) * kTinyBatch);
    }
  }
  Check(next == index.size(), ErrorCode::kInvalidArgument, "MakeTinyBatches: index ",
        next < index.size() ? index[next] : 0, " in a weight of ", n, " x ", k);
  return batches;
}

void SplitNested12(const void* w, int64_t n, int64_t k, void* upper, void* nibbles,
                   float* row_scale, const TinySink& sink, cudaStream_t stream, int64_t first_row,
                   int64_t rows) {
  CheckShape(n, k, {w, upper, nibbles});
  Check(sink.counts != nullptr, ErrorCode::kInvalidArgument, "SplitNested12: counts are required");
  if (n == 0 || k == 0) {
    return;
  }
  const auto launch = [&](auto kernel, int threads) {
    kernel<<<static_cast<unsigned>(n), threads, 0, stream>>>(
        static_cast<const uint4*>(w), static_cast<int>(k), static_cast<uint4*>(upper),
        static_cast<uint4*>(nibbles), row_scale, sink, first_row, rows == 0 ? n : rows);
  };
  const int64_t chunks = (k + kNibbleBlock - 1) / kNibbleBlock * 4;
  constexpr int kFewThreads = 256;
  const auto threads = [](int64_t count) { return static_cast<int>((count + 31) / 32 * 32); };
  if (chunks <= kFewThreads) {
    launch(SplitKernel<1>, threads(chunks));
  } else if (chunks <= 2 * kMostThreads) {
    launch(SplitKernel<2>, threads((chunks + 1) / 2));
  } else {
    launch(SplitKernel<0>, kMostThreads);
  }
  CheckCuda(cudaGetLastError(), "SplitNested12");
}

void MergeNested12(const void* upper, const void* nibbles, const float* row_scale,
                   const TinyWeight* tiny, int64_t n, int64_t k, void* w, cudaStream_t stream) {
  CheckShape(n, k, {upper, nibbles, w});
  if (n == 0 || k == 0) {
    return;
  }
  MergeKernel<<<Grid(n * ((k + kChunk - 1) / kChunk)), kThreads, 0, stream>>>(
      static_cast<const uint4*>(upper), static_cast<const uint4*>(nibbles), row_scale, n,
      static_cast<int>(k), static_cast<uint4*>(w));
  CheckCuda(cudaGetLastError(), "MergeNested12");
  if (tiny != nullptr) {
    const int64_t lists = (n + kTinyRows - 1) / kTinyRows;
    MergeTinyKernel<<<static_cast<unsigned>((lists + kWarps - 1) / kWarps), kThreads, 0, stream>>>(
        tiny, row_scale, lists, k, static_cast<uint16_t*>(w));
    CheckCuda(cudaGetLastError(), "MergeNested12");
  }
}

void NibblesToDevice(const void* in, int64_t n, int64_t k, void* out, cudaStream_t stream) {
  CheckShape(n, k, {in, out});
  if (n == 0 || k == 0) {
    return;
  }
  const int64_t chunks = (k + kNibbleBlock - 1) / kNibbleBlock * 4;
  NibblesToDeviceKernel<<<Grid(n * chunks), kThreads, 0, stream>>>(
      static_cast<const uint8_t*>(in), n, static_cast<int>(k), static_cast<uint4*>(out));
  CheckCuda(cudaGetLastError(), "NibblesToDevice");
}

}  // namespace dualfp::cuda
