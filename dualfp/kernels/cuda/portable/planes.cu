#include <cuda_fp16.h>

#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/common/nested_decode.cuh"
#include "dualfp/kernels/cuda/planes.h"
#include "dualfp/numeric/nested.h"

namespace dualfp::cuda {
namespace {

constexpr int kThreads = 256;

// Position of logical k (of 16) inside its permuted group: byte 4t + j holds
// k = {2t, 2t + 1, 2t + 8, 2t + 9}[j].
__device__ constexpr int PermutedPosition(int k) { return (k % 8 / 2) * 4 + k / 8 * 2 + k % 2; }

__device__ __forceinline__ uint4 Permuted(const uint4& v) {
  // Word t = bytes {2t, 2t+1} of the first eight, then of the second.
  return make_uint4(__byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632),
                    __byte_perm(v.y, v.w, 0x5410), __byte_perm(v.y, v.w, 0x7632));
}

// D from E, or E from D, of 16 weights.
__device__ __forceinline__ uint4 DeviceLower(const uint4& upper, const uint4& lower) {
  return make_uint4(NestedDeviceLower(upper.x, lower.x), NestedDeviceLower(upper.y, lower.y),
                    NestedDeviceLower(upper.z, lower.z), NestedDeviceLower(upper.w, lower.w));
}

// Lists an outlier, or counts what cannot be a weight. `value` is the weight itself.
__device__ void NoteIneligible(const OutlierSink& sink, int64_t index, float value,
                               uint16_t clamped) {
  if (!isfinite(value)) {
    atomicAdd(&sink.counts->non_finite, 1);
    atomicMax(&sink.counts->not_before, ~static_cast<unsigned long long>(index));
    return;
  }
  const auto slot = static_cast<int64_t>(atomicAdd(&sink.counts->outliers, 1));
  if (slot < sink.capacity) {
    sink.index[slot] = index;
    sink.value[slot] = value - __half2float(__ushort_as_half(clamped));
  }
}

// A thread takes one group: 32 bytes in, 16 and 16 out.
template <PlaneSource kSource>
__global__ void __launch_bounds__(kThreads)
    SplitKernel(const uint4* w, int64_t groups, uint4* upper, uint4* lower, const OutlierSink sink,
                int64_t first_index) {
  unsigned rounded = 0;
  float largest_error = 0.0f;
  for (int64_t group = blockIdx.x * int64_t{kThreads} + threadIdx.x; group < groups;
       group += int64_t{gridDim.x} * kThreads) {
    const uint4 in[2] = {w[2 * group], w[2 * group + 1]};
    const uint32_t words[8] = {in[0].x, in[0].y, in[0].z, in[0].w,
                               in[1].x, in[1].y, in[1].z, in[1].w};
    uint32_t u[4] = {0, 0, 0, 0};
    uint32_t e[4] = {0, 0, 0, 0};  // E, becomes D
#pragma unroll
    for (int k = 0; k < 16; ++k) {
      const auto stored = static_cast<uint16_t>(words[k / 2] >> (16 * (k % 2)));
      uint16_t bits = stored;
      if constexpr (kSource == PlaneSource::kBf16) {
        const float value = __uint_as_float(uint32_t{stored} << 16);
        const __half half = __float2half_rn(value);
        bits = __half_as_ushort(half);
        const float difference = fabsf(__half2float(half) - value);
        if (difference > 0.0f && !isinf(difference)) {
          ++rounded;
          largest_error = fmaxf(largest_error, difference / fabsf(value));
        }
      }
      if (!NestedEligible(bits)) {
        const uint16_t clamped = (bits & 0x8000) | kNestedMaxBits;
        const float value = kSource == PlaneSource::kBf16 ? __uint_as_float(uint32_t{stored} << 16)
                                                          : __half2float(__ushort_as_half(stored));
        NoteIneligible(sink, first_index + group * 16 + k, value, clamped);
        bits = clamped;
      }
      const NestedBytes bytes = NestedSplit(bits);
      const int position = PermutedPosition(k);
      u[position / 4] |= uint32_t{bytes.upper} << (8 * (position % 4));
      e[position / 4] |= uint32_t{bytes.lower} << (8 * (position % 4));
    }
    const uint4 upper_group = make_uint4(u[0], u[1], u[2], u[3]);
    upper[group] = upper_group;
    lower[group] = DeviceLower(upper_group, make_uint4(e[0], e[1], e[2], e[3]));
  }
  if (rounded != 0) {
    atomicAdd(&sink.counts->rounded, rounded);
    atomicMax(&sink.counts->largest_error, __float_as_uint(largest_error));
  }
}

__global__ void __launch_bounds__(kThreads)
    MergeKernel(const uint4* upper, const uint4* lower, int64_t groups, uint4* w) {
  for (int64_t group = blockIdx.x * int64_t{kThreads} + threadIdx.x; group < groups;
       group += int64_t{gridDim.x} * kThreads) {
    const uint4 u = upper[group];
    const uint4 d = lower[group];
    uint4 low;   // k = 0..7
    uint4 high;  // k = 8..15
    DecodeNested(u.x, d.x, low.x, high.x);
    DecodeNested(u.y, d.y, low.y, high.y);
    DecodeNested(u.z, d.z, low.z, high.z);
    DecodeNested(u.w, d.w, low.w, high.w);
    w[2 * group] = low;
    w[2 * group + 1] = high;
  }
}

// Bytes of 0xFF where U and D do not belong together, for four weights. Of V = 128 U7 + D - 64 the
// rounding of V / 128 to even must give U7 back, so D is 0 .. 128, and neither of these ties where
// U7 is odd; and V is 0 .. 0x3F00, so D >= 64 where U7 is 0, D <= 64 where it is 126, and it is
// never 127.
__device__ __forceinline__ uint32_t Mismatch(uint32_t u, uint32_t d) {
  const uint32_t odd = (u & 0x01010101u) * 255;
  const uint32_t magnitude = u & 0x7F7F7F7Fu;
  return __vcmpgtu4(d, 0x80808080u) | (odd & __vcmpeq4(d & 0x7F7F7F7Fu, 0)) |
         (__vcmpeq4(magnitude, 0) & __vcmpltu4(d, 0x40404040u)) |
         (__vcmpeq4(magnitude, 0x7E7E7E7Eu) & __vcmpgtu4(d, 0x40404040u)) |
         __vcmpeq4(magnitude, 0x7F7F7F7Fu);
}

// Has bit 7 of each byte set where Mismatch may have it, in a fifth of its instructions: D above
// 128, a tie under an odd U7, or U7 is 0 or above 125, which few weights have.
__device__ __forceinline__ uint32_t MayMismatch(uint32_t u, uint32_t d) {
  const uint32_t no_tie = (d & 0x7F7F7F7Fu) + 0x7F7F7F7Fu;  // bit 7: D is neither 0 nor 128
  const uint32_t magnitude = u & 0x7F7F7F7Fu;
  const uint32_t wrong_d = (no_tie & d) | (~no_tie & u << 7);
  const uint32_t edge_u = ~(magnitude + 0x7F7F7F7Fu) | (magnitude + 0x02020202u);
  return (wrong_d | edge_u) & 0x80808080u;
}

__global__ void __launch_bounds__(kThreads)
    CheckKernel(const uint4* upper, const uint4* lower, int64_t groups, SplitCounts* counts) {
  int invalid = 0;
  for (int64_t group = blockIdx.x * int64_t{kThreads} + threadIdx.x; group < groups;
       group += int64_t{gridDim.x} * kThreads) {
    const uint4 u = upper[group];
    const uint4 d = lower[group];
    if ((MayMismatch(u.x, d.x) | MayMismatch(u.y, d.y) | MayMismatch(u.z, d.z) |
         MayMismatch(u.w, d.w)) != 0) {
      invalid += __popc(Mismatch(u.x, d.x)) + __popc(Mismatch(u.y, d.y)) +
                 __popc(Mismatch(u.z, d.z)) + __popc(Mismatch(u.w, d.w));
    }
  }
  if (invalid != 0) {
    atomicAdd(&counts->invalid, static_cast<unsigned long long>(invalid / 8));
  }
}

__global__ void __launch_bounds__(kThreads)
    PermuteKernel(const uint4* in, uint4* out, int64_t groups) {
  for (int64_t group = blockIdx.x * int64_t{kThreads} + threadIdx.x; group < groups;
       group += int64_t{gridDim.x} * kThreads) {
    out[group] = Permuted(in[group]);
  }
}

__global__ void __launch_bounds__(kThreads)
    ToDeviceKernel(uint4* upper, uint4* lower, int64_t groups) {
  for (int64_t group = blockIdx.x * int64_t{kThreads} + threadIdx.x; group < groups;
       group += int64_t{gridDim.x} * kThreads) {
    const uint4 u = upper[group];
    const uint4 e = lower[group];
    upper[group] = Permuted(u);
    lower[group] = Permuted(DeviceLower(u, e));
  }
}

int Grid(int64_t groups) {
  const int64_t blocks = (groups + kThreads - 1) / kThreads;
  constexpr int64_t kMost = 1 << 16;
  return static_cast<int>(blocks < kMost ? blocks : kMost);
}

void CheckGroups(int64_t count, const void* a, const void* b, const void* c) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  Check(count % 16 == 0, ErrorCode::kInvalidArgument, "planes: K must be a multiple of 16");
  Check(aligned(a) && aligned(b) && aligned(c), ErrorCode::kInvalidArgument,
        "planes: pointers must be aligned to 16 bytes");
}

}  // namespace

void SplitPlanes(const void* w, int64_t n, int64_t k, void* upper, void* lower,
                 const OutlierSink& sink, cudaStream_t stream, PlaneSource source,
                 int64_t first_index) {
  CheckGroups(k, w, upper, lower);
  Check(sink.counts != nullptr, ErrorCode::kInvalidArgument, "SplitPlanes: counts are required");
  const int64_t groups = n * k / 16;
  if (groups == 0) {
    return;
  }
  const auto kernel = source == PlaneSource::kF16 ? SplitKernel<PlaneSource::kF16>
                                                  : SplitKernel<PlaneSource::kBf16>;
  kernel<<<Grid(groups), kThreads, 0, stream>>>(static_cast<const uint4*>(w), groups,
                                                static_cast<uint4*>(upper),
                                                static_cast<uint4*>(lower), sink, first_index);
  CheckCuda(cudaGetLastError(), "SplitPlanes");
}

void MergePlanes(const void* upper, const void* lower, int64_t n, int64_t k, void* w,
                 cudaStream_t stream) {
  CheckGroups(k, w, upper, lower);
  const int64_t groups = n * k / 16;
  if (groups == 0) {
    return;
  }
  MergeKernel<<<Grid(groups), kThreads, 0, stream>>>(static_cast<const uint4*>(upper),
                                                     static_cast<const uint4*>(lower), groups,
                                                     static_cast<uint4*>(w));
  CheckCuda(cudaGetLastError(), "MergePlanes");
}

void CheckPlanes(const void* upper, const void* lower, int64_t n, int64_t k, SplitCounts* counts,
                 cudaStream_t stream) {
  CheckGroups(k, upper, lower, upper);
  const int64_t groups = n * k / 16;
  if (groups == 0) {
    return;
  }
  CheckKernel<<<Grid(groups), kThreads, 0, stream>>>(
      static_cast<const uint4*>(upper), static_cast<const uint4*>(lower), groups, counts);
  CheckCuda(cudaGetLastError(), "CheckPlanes");
}

void PermuteBytes(const void* in, void* out, int64_t bytes, cudaStream_t stream) {
  CheckGroups(bytes, in, out, out);
  const int64_t groups = bytes / 16;
  if (groups == 0) {
    return;
  }
  PermuteKernel<<<Grid(groups), kThreads, 0, stream>>>(static_cast<const uint4*>(in),
                                                       static_cast<uint4*>(out), groups);
  CheckCuda(cudaGetLastError(), "PermuteBytes");
}

void PlanesToDevice(void* upper, void* lower, int64_t n, int64_t k, cudaStream_t stream) {
  CheckGroups(k, upper, lower, upper);
  const int64_t groups = n * k / 16;
  if (groups == 0) {
    return;
  }
  ToDeviceKernel<<<Grid(groups), kThreads, 0, stream>>>(static_cast<uint4*>(upper),
                                                        static_cast<uint4*>(lower), groups);
  CheckCuda(cudaGetLastError(), "PlanesToDevice");
}

}  // namespace dualfp::cuda
