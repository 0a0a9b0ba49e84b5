// Pieces of the quantizers. A lane works on chunks: eight consecutive elements, 16 bytes in and,
// after trading halves with its neighbour, 8 bytes out, so that all accesses of a warp are
// contiguous.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace dualfp::cuda {

constexpr float kE4m3Max = 448.0f;
constexpr int kChunk = 8;

// Eight elements as stored.
struct Chunk {
  uint32_t word[4] = {0, 0, 0, 0};
};

struct F16 {
  __device__ static float2 Unpack(uint32_t bits) {
    return __half22float2(reinterpret_cast<const __half2&>(bits));
  }
  __device__ static uint32_t Pack(float a, float b) {
    const __half2 h = __floats2half2_rn(a, b);
    return reinterpret_cast<const uint32_t&>(h);
  }
  __device__ static uint32_t Add(uint32_t a, uint32_t b) {
    const __half2 h =
        __hadd2(reinterpret_cast<const __half2&>(a), reinterpret_cast<const __half2&>(b));
    return reinterpret_cast<const uint32_t&>(h);
  }
  // Of non-negative values; NaN loses.
  __device__ static uint32_t Max(uint32_t a, uint32_t b) {
    const __half2 h =
        __hmax2(reinterpret_cast<const __half2&>(a), reinterpret_cast<const __half2&>(b));
    return reinterpret_cast<const uint32_t&>(h);
  }
};

struct Bf16 {
  __device__ static float2 Unpack(uint32_t bits) {
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xFFFF0000u));
  }
  __device__ static uint32_t Pack(float a, float b) {
    const __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
    return reinterpret_cast<const uint32_t&>(h);
  }
  __device__ static uint32_t Add(uint32_t a, uint32_t b) {
    const float2 x = Unpack(a);
    const float2 y = Unpack(b);
    return Pack(x.x + y.x, x.y + y.y);
  }
  __device__ static uint32_t Max(uint32_t a, uint32_t b) {
    const __nv_bfloat162 h = __hmax2(reinterpret_cast<const __nv_bfloat162&>(a),
                                     reinterpret_cast<const __nv_bfloat162&>(b));
    return reinterpret_cast<const uint32_t&>(h);
  }
};

// Past L1: nothing here is read twice by one SM but the norm's weight.
__device__ __forceinline__ Chunk LoadChunk(const uint16_t* p) {
  const uint4 v = __ldcg(reinterpret_cast<const uint4*>(p));
  return {{v.x, v.y, v.z, v.w}};
}
__device__ __forceinline__ Chunk LoadChunkCached(const uint16_t* p) {
  const uint4 v = __ldg(reinterpret_cast<const uint4*>(p));
  return {{v.x, v.y, v.z, v.w}};
}

template <class E>
__device__ __forceinline__ void Expand(const Chunk& chunk, float (&v)[kChunk]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 f = E::Unpack(chunk.word[i]);
    v[2 * i] = f.x;
    v[2 * i + 1] = f.y;
  }
}

// The larger magnitude of each half of the words, over a chunk and `so_far`.
template <class E>
__device__ __forceinline__ uint32_t MaxMagnitude(const Chunk& chunk, uint32_t so_far) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    so_far = E::Max(so_far, chunk.word[i] & 0x7FFF7FFFu);
  }
  return so_far;
}

template <class E>
__device__ __forceinline__ float LargerHalf(uint32_t magnitudes) {
  const float2 f = E::Unpack(magnitudes);
  return fmaxf(f.x, f.y);
}

__device__ __forceinline__ float ScaleOf(float amax) {
  const float scale = __fdiv_rn(amax, kE4m3Max);
  return scale > 0.0f ? scale : 1.0f;
}

// v / scale, correctly rounded: one Newton step on the quotient by the rounded reciprocal
// (Markstein's theorem), at a third of the instructions of a division.
struct Divisor {
  float scale;
  float reciprocal;

  __device__ explicit Divisor(float scale_in) : scale(scale_in), reciprocal(1.0f / scale_in) {}
  __device__ __forceinline__ float operator()(float v) const {
    const float q = v * reciprocal;
    return fmaf(-fmaf(q, scale, -v), reciprocal, q);  // in this order -0 stays -0
  }
};

// A scale whose reciprocal overflows; BF16 reaches it, FP16 does not.
__device__ __forceinline__ bool NeedsDivision(float scale) { return scale < 0x1p-120f; }

__device__ __forceinline__ uint32_t PackE4m3(float a, float b) {
  return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
}

// The codes of this lane's chunk and its neighbour's, sixteen elements of which the even lane holds
// the first eight, in permuted order: byte 4t + j holds k = {2t, 2t+1, 2t+8, 2t+9}[j]. The even
// lane gets the first eight bytes, the odd one the others. By whole warps.
__device__ __forceinline__ uint2 PermutedCodes(const float (&v)[kChunk]) {
  const uint32_t first = PackE4m3(v[0], v[1]) | PackE4m3(v[2], v[3]) << 16;
  const uint32_t second = PackE4m3(v[4], v[5]) | PackE4m3(v[6], v[7]) << 16;
  const bool odd = threadIdx.x % 2 != 0;
  const uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, odd ? first : second, 1);
  const uint32_t low = odd ? other : first;
  const uint32_t high = odd ? second : other;
  return make_uint2(__byte_perm(low, high, 0x5410), __byte_perm(low, high, 0x7632));
}

// Divides eight values and rounds them to codes.
template <class E>
__device__ __forceinline__ uint2 QuantizeChunk(float (&v)[kChunk], float scale) {
  const Divisor divide(scale);
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    v[i] = divide(v[i]);
  }
  return PermutedCodes(v);
}
template <>
__device__ __forceinline__ uint2 QuantizeChunk<Bf16>(float (&v)[kChunk], float scale) {
  if (NeedsDivision(scale)) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      v[i] = __fdiv_rn(v[i], scale);
    }
  } else {
    const Divisor divide(scale);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      v[i] = divide(v[i]);
    }
  }
  return PermutedCodes(v);
}

template <int kWidth>
__device__ __forceinline__ float LanesMax(float v) {
#pragma unroll
  for (int d = kWidth / 2; d > 0; d /= 2) {
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

// {sum, maximum} over the block, whose warps are full; every thread gets the result. Sums in a
// fixed order. `shared` holds 32 values and is used once.
struct SumMax {
  float sum;
  float max;
};

template <bool kSum>
__device__ __forceinline__ SumMax BlockReduce(SumMax v, SumMax* shared) {
  v.max = LanesMax<32>(v.max);
  if (kSum) {
    v.sum = WarpSum(v.sum);
  }
  if (threadIdx.x % 32 == 0) {
    shared[threadIdx.x / 32] = v;
  }
  __syncthreads();
  v = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : SumMax{0.0f, 0.0f};
  v.max = LanesMax<32>(v.max);
  if (kSum) {
    v.sum = WarpSum(v.sum);
  }
  return v;
}

}  // namespace dualfp::cuda
