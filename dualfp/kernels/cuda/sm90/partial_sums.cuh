// Partial sums of tiles that several CTAs compute, handed over through global memory (which for
// these few megabytes means L2). A CTA has one slot and fills it at most once a kernel; each
// warpgroup hands over its own rows. The order of additions depends on the schedule alone.

#pragma once

#include "dualfp/kernels/cuda/sm90/epilogue.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop.cuh"
#include "dualfp/kernels/cuda/sm90/promoted.cuh"
#include "dualfp/kernels/cuda/sm90/schedule.cuh"

namespace dualfp::sm90 {

__device__ __forceinline__ void StoreRelease(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
__device__ __forceinline__ uint32_t LoadAcquire(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}

// Tokens [begin, end) of a tile; ends lie between chunks (StoreChunkTokens).
struct TokenRange {
  int begin;
  int end;

  __device__ bool Holds(int token) const { return begin <= token && token < end; }
};

template <class T>
class PartialSums {
 public:
  // What a slot of the workspace holds.
  static constexpr bool kFits = T::kRows * T::kTokens <= kMostPartialSums;

  __device__ PartialSums(const GemmParams& p, const SharedLayout<T>& shared)
      : p_(p), shared_(shared) {}

  // The tokens that part `part` of `parts` finishes.
  __device__ static TokenRange Own(int part, const Divisor& parts) {
    return {min(parts.Quotient(part * kChunks) * kChunk, T::kTokens),
            min(parts.Quotient((part + 1) * kChunks) * kChunk, T::kTokens)};
  }

  // Stores this warpgroup's accumulators of all tokens but `kept` to this CTA's slot.
  __device__ __forceinline__ void Give(const ConsumerOf<T>& consumer, TokenRange kept) const {
    float4* slot = reinterpret_cast<float4*>(Slot(blockIdx.x)) + threadIdx.x % 128;
#pragma unroll
    for (int b = 0; b < T::kBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        if (!kept.Holds(i * 8)) {
          const float* d = &consumer.acc[b][4 * i];
          __stcg(slot + (b * kVectors + i) * 128, make_float4(d[0], d[1], d[2], d[3]));
        }
      }
    }
    WarpgroupSync();
  }

  // After Give: reader `index` (a thread for each) may take.
  __device__ __forceinline__ void Announce(int index) const {
    StoreRelease(Flag(blockIdx.x, index), 1);
  }

  // Adds what the same warpgroup of `count` other CTAs gave of these tokens; cta(i) is the i-th and
  // `reader` the index under which they announce it. The ring is empty and the loaders are done:
  // sums come through it by bulk copies, which need no registers to be under way.
  template <class Cta>
  __device__ __forceinline__ void Take(ConsumerOf<T>& consumer, TokenRange tokens, int count,
                                       int reader, uint32_t& phase, const Cta& cta) const {
    static_assert(T::kBlocks * kVectors * kVectorBytes <= kRingShare);
    cuda::NamedBarrierSync(kWholeBarrier<T>, T::kConsumers);  // all have finished with the ring
    const int warpgroup = threadIdx.x / 128;
    const uint32_t barrier = shared_.SumBarrier(warpgroup);
    const uint32_t sums = shared_.ring + warpgroup * kRingShare;
    const uint32_t bytes = (tokens.end - tokens.begin) / 8 * kVectorBytes;  // of a block of rows
    if (threadIdx.x % 128 == 0) {
      cuda::BarrierArriveExpect(barrier, count * T::kBlocks * bytes);
      for (int i = 0; i < count; ++i) {
        const uint32_t* flag = Flag(cta(i), reader);
        while (LoadAcquire(flag) == 0) {
        }
        *Flag(cta(i), reader) = 0;
        cuda::FenceAsyncGlobal();  // what ordinary stores wrote is read by the copy engine
        for (int b = 0; b < T::kBlocks && bytes > 0; ++b) {
          cuda::BulkLoad(sums + (i * T::kBlocks + b) * bytes,
                         Slot(cta(i)) + (b * kVectors + tokens.begin / 8) * kVectorBytes, bytes,
                         barrier);
        }
      }
    }
    cuda::BarrierWait(barrier, phase);
    phase ^= 1;
    const uint32_t own = sums + threadIdx.x % 128 * 16;
    for (int i = 0; i < count; ++i) {
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
        const uint32_t from = own + (i * T::kBlocks + b) * bytes - tokens.begin / 8 * kVectorBytes;
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          if (tokens.Holds(v * 8)) {
            const float4 part = LoadShared4(from + v * kVectorBytes);
            float* d = &consumer.acc[b][4 * v];
            d[0] += part.x;
            d[1] += part.y;
            d[2] += part.z;
            d[3] += part.w;
          }
        }
      }
    }
  }

 private:
  static constexpr int kVectors = T::kTokens / 8;  // float4s of a thread in a block of rows
  static constexpr int kVectorBytes = 128 * 16;    // of all threads
  static constexpr int kChunk = StoreChunkTokens(T::kTokens);
  static constexpr int kChunks = T::kTokens / kChunk;
  static constexpr int kRingShare = T::kRingBytes / T::kWarpgroups / 128 * 128;

  __device__ uint8_t* Slot(int cta) const {
    return reinterpret_cast<uint8_t*>(p_.partials) +
           (static_cast<int64_t>(cta) * T::kWarpgroups + threadIdx.x / 128) *
               (T::kBlocks * kVectors * kVectorBytes);
  }
  __device__ uint32_t* Flag(int cta, int reader) const {
    return p_.flags + (cta * T::kWarpgroups + threadIdx.x / 128) * kMostParts + reader;
  }

  const GemmParams& p_;
  const SharedLayout<T>& shared_;
};

}  // namespace dualfp::sm90
