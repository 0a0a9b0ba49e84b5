// Partial sums of tiles that several CTAs compute, handed over through global memory (which for
// these few megabytes means L2). A CTA has one slot and fills it at most once a kernel; each
// warpgroup hands over its own rows. The order of additions depends on the schedule alone.
//
// Four sums of 24 bits travel with the number of the launch in 16 bytes, written and read as one:
// who reads the number has the sums, so that nobody waits for fences or flags, and what earlier
// launches left is never taken for new.

#pragma once

#include "dualfp/kernels/cuda/sm90/epilogue/epilogue.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop/consumer.cuh"
#include "dualfp/kernels/cuda/sm90/pipeline/walk.cuh"

namespace dualfp::sm90 {

// Tokens [begin, end) of a tile; ends lie between chunks (StoreChunkTokens).
struct TokenRange {
  int begin;
  int end;

  __device__ bool Holds(int token) const { return begin <= token && token < end; }
};

// One memory access (PTX ISA 9.7.9.8, ld and st of .b128).
__device__ __forceinline__ void StoreWord(void* target, const uint32_t (&v)[4]) {
  asm volatile(
      "{\n"
      ".reg .b128 word;\n"
      ".reg .b64 low, high;\n"
      "mov.b64 low, {%1, %2};\n"
      "mov.b64 high, {%3, %4};\n"
      "mov.b128 word, {low, high};\n"
      "st.relaxed.gpu.global.b128 [%0], word;\n"
      "}\n" ::"l"(target),
      "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
      : "memory");
}

__device__ __forceinline__ void LoadWord(const void* source, uint32_t (&v)[4]) {
  asm volatile(
      "{\n"
      ".reg .b128 word;\n"
      ".reg .b64 low, high;\n"
      "ld.relaxed.gpu.global.b128 word, [%4];\n"
      "mov.b128 {low, high}, word;\n"
      "mov.b64 {%0, %1}, low;\n"
      "mov.b64 {%2, %3}, high;\n"
      "}\n"
      : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
      : "l"(source)
      : "memory");
}

// Four floats as 24 bits each, 15 of them mantissa: far more than what they are summed for keeps.
// The fourth lies in the low bytes of the others.
__device__ __forceinline__ void PackSums(const float* f, uint32_t (&v)[4]) {
  const uint32_t last = __float_as_uint(f[3]);
  v[0] = __byte_perm(__float_as_uint(f[0]), last, 0x3215);
  v[1] = __byte_perm(__float_as_uint(f[1]), last, 0x3216);
  v[2] = __byte_perm(__float_as_uint(f[2]), last, 0x3217);
}

__device__ __forceinline__ void AddSums(const uint32_t (&v)[4], float* f) {
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    f[i] += __uint_as_float(v[i] & 0xFFFFFF00u);
  }
  const uint32_t low = __byte_perm(v[0], v[1], 0x0400);
  f[3] += __uint_as_float(__byte_perm(low, v[2], 0x4210) & 0xFFFFFF00u);
}

template <class T>
class PartialSums {
 public:
  // `launch`: no two launches that use one workspace have the same.
  __device__ PartialSums(const GemmParams& p, uint32_t launch)
      : partials_(p.partials), launch_(launch) {}

  // The tokens that slice `slice` of a split-K tile finishes.
  __device__ static TokenRange Own(int slice, const Divisor& split_k) {
    return {min(split_k.Quotient(slice * kChunks) * kChunk, T::kTokens),
            min(split_k.Quotient((slice + 1) * kChunks) * kChunk, T::kTokens)};
  }

  // Stores this warpgroup's accumulators of all tokens but `kept` to this CTA's slot.
  __device__ __forceinline__ void Give(int cta, const ConsumerOf<T>& consumer,
                                       TokenRange kept) const {
    uint8_t* slot = Slot(cta);
#pragma unroll
    for (int b = 0; b < T::kBlocks; ++b) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        if (!kept.Holds(c * kChunk)) {
#pragma unroll
          for (int i = c * kChunk / 8; i < (c + 1) * kChunk / 8; ++i) {
            uint32_t word[4];
            PackSums(&consumer.acc[b][4 * i], word);
            word[3] = launch_;
            StoreWord(slot + (b * kVectors + i) * kVectorBytes, word);
          }
        }
      }
    }
  }

  // Adds what the same warpgroup of `count` other CTAs gave of these tokens; cta(i) is the i-th.
  template <class Cta>
  __device__ __forceinline__ void Take(ConsumerOf<T>& consumer, TokenRange tokens, int count,
                                       const Cta& cta) const {
    for (int i = 0; i < count; ++i) {
      const uint8_t* slot = Slot(cta(i));
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
#pragma unroll
        for (int c = 0; c < kChunks; c += 2) {
          const uint8_t* words = slot + (b * kVectors + c * kChunk / 8) * kVectorBytes;
          float* sums = &consumer.acc[b][c * kChunk / 2];
          const bool first = tokens.Holds(c * kChunk);
          const bool second = c + 1 < kChunks && tokens.Holds((c + 1) * kChunk);
          if (c + 1 < kChunks && first && second) {
            TakeChunks<2>(words, sums);
          } else if (first) {
            TakeChunks<1>(words, sums);
          } else if (c + 1 < kChunks && second) {
            TakeChunks<1>(words + kChunk / 8 * kVectorBytes, sums + kChunk / 2);
          }
        }
      }
    }
  }

 private:
  static constexpr int kVectors = T::kTokens / 8;  // words of a thread in a block of rows
  static constexpr int kVectorBytes = 128 * 16;    // of all threads
  static constexpr int kChunk = StoreChunkTokens(T::kTokens);
  static constexpr int kChunks = T::kTokens / kChunk;

  template <int kCount>
  __device__ __forceinline__ void TakeChunks(const uint8_t* words, float* sums) const {
    constexpr int kWords = kCount * kChunk / 8;
    uint32_t word[kWords][4];
    bool there;
    do {
      there = true;
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        LoadWord(words + i * kVectorBytes, word[i]);
      }
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        there = there && word[i][3] == launch_;
      }
      // All lanes at once: ptxas takes lanes for apart after a loop that each leaves by itself, and
      // keeps descriptors of later tiles in registers that wgmma cannot use.
    } while (__any_sync(0xFFFFFFFFu, !there));
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      AddSums(word[i], sums + 4 * i);
    }
  }

  __device__ uint8_t* Slot(int cta) const {
    return partials_ +
           (static_cast<int64_t>(cta) * T::kWarpgroups + threadIdx.x / 128) *
               (T::kBlocks * kVectors * kVectorBytes) +
           threadIdx.x % 128 * 16;
  }

  uint8_t* partials_;
  uint32_t launch_;
};

}  // namespace dualfp::sm90
