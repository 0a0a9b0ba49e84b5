// The K loop of NestedFP16: planes become FP16 fragments in registers, which multiply X in shared
// memory.

#pragma once

#include "dualfp/kernels/cuda/common/matrix.cuh"
#include "dualfp/kernels/cuda/common/nested_decode.cuh"
#include "dualfp/kernels/cuda/common/wgmma.cuh"
#include "dualfp/kernels/cuda/sm90/pipeline/ring.cuh"

namespace dualfp::sm90 {

// The consumers' side. One object a thread, whose place in the ring runs on across tiles.
template <class T>
class NestedConsumer {
 public:
  float acc[T::kBlocks][T::kTokens / 2];

  __device__ NestedConsumer(const GemmParams& p, const SharedLayout<T>& shared,
                            const ClusterPlace& place)
      : shared_(shared),
        decode_mask_(p.decode_mask),
        x_((shared.X(0) & 0x3FFFF) >> 4),
        release_(shared, place) {
    // The shuffle tells the compiler that the value is uniform across the warp.
    const uint32_t warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0);
    // This lane's row address for ldmatrix, see LoadRaw.
    const int lane = threadIdx.x % 32;
    const int row = threadIdx.x / 32 % 4 * 16 + (lane & 15) + warpgroup * T::kBlocks * 64;
    const int swizzle = T::kK == 128 ? (row & 7) : ((row >> 1) & 3);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      raw_address_[i] = shared.ring + row * T::kK + (((2 * i + (lane >> 4)) ^ swizzle) << 4);
    }
  }

  // acc = W tile · X tileᵀ over `stages` stages of the ring, of which the last holds
  // `last_k` <= kK elements of K. Needs stages >= 1.
  __device__ __forceinline__ void Run(int stages, int last_k) {
#pragma unroll
    for (int b = 0; b < T::kBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < T::kTokens / 2; ++i) {
        acc[b][i] = 0.0f;
      }
    }
    if constexpr (T::kUnrolled) {
      while (index_.stage != 0) {  // see Loader::FinishRound
        cuda::BarrierWait(shared_.Full(index_.stage), index_.phase);
        if constexpr (T::kSeparate) {
          cuda::BarrierWait(shared_.FullX(index_.stage), index_.phase);
          release_.Weights(index_.stage);
        }
        release_.X(index_.stage);
        index_.template Advance<T::kStages>();
      }
    }
    int left = stages * kGranules;
    read_ = index_;
    Read<0>(read_, raw_[0]);
    if (stages == 1 && last_k != T::kK) {
      ZeroPast(raw_[0], last_k / 16);
    }
    if constexpr (kGranules == 1) {
      read_.template Advance<T::kStages>();
    }
    if constexpr (kAhead == 2) {
      if (left > 1) {
        Read<1 % kGranules>(read_, raw_[1]);
        if (left - 1 <= kGranules && last_k != T::kK) {
          ZeroPast(raw_[1], last_k / 16 - (kGranules - (left - 1)) * kSteps);
        }
      }
      if constexpr (kGranules <= 2) {
        read_.template Advance<T::kStages>();
      }
    }
    Decode(raw_[0], fragments_[0]);
    bool first = true;
    if constexpr (T::kUnrolled) {
      while (Rounds(left, first)) {
      }
      read_ = index_;
#pragma unroll
      for (int i = 0; i < kAheadStages; ++i) {
        read_.template Advance<T::kStages>();
      }
    } else {
      for (; left >= kPeriod + kGranules + kAhead; left -= kPeriod) {
        Period<true>(left, first, last_k);
        first = false;
      }
    }
    for (; left > 0; left -= kPeriod) {
      Period<false>(left, first, last_k);
      first = false;
    }
    cuda::WgmmaWait<0>();
    release_.X(Before(index_.stage));
#pragma unroll
    for (int b = 0; b < T::kBlocks; ++b) {
      cuda::WgmmaPin(acc[b]);
    }
  }

 private:
  // 16-element steps of K that are decoded together and committed as one group: a granule. Two, so
  // that decoding begins while half a stage still multiplies; four where there are too few tokens
  // for the tensor cores to bound anything.
  static constexpr int kSteps = T::kBlocks == 1 && T::kTokens < 48 ? 4 : 2;
  static constexpr int kGranules = T::kK / (16 * kSteps);  // in a stage
  static constexpr int kPairs = T::kK / 32;                // of steps in a stage: one ldmatrix each
  // Granules by which reading runs ahead of multiplying. Two hide the latency of shared memory
  // behind the decoding of the granule between.
  static constexpr int kAhead = T::kBlocks == 1 && kSteps == 2 ? 2 : 1;

  struct Raw {
    uint32_t upper[T::kBlocks][kSteps / 2][4];
    uint32_t lower[T::kBlocks][kSteps / 2][4];
  };
  using Fragments = uint32_t[T::kBlocks][kSteps][4];

  __device__ __forceinline__ static uint32_t Before(uint32_t stage) {
    return stage == 0 ? T::kStages - 1 : stage - 1;
  }

  // Bytes of the planes: one ldmatrix reads rows r..r+15 and 32 bytes of K of this warp, so that
  // words 0, 1 are rows g and g+8 of the first 16 bytes and words 2, 3 of the second.
  __device__ __forceinline__ void LoadRaw(Raw& raw, uint32_t stage, int granule) {
    const uint32_t offset = stage * T::kStageBytes;
#pragma unroll
    for (int i = 0; i < kSteps / 2; ++i) {
      const uint32_t address = raw_address_[granule * (kSteps / 2) + i] + offset;
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
        cuda::LoadMatrix4(raw.upper[b][i], address + b * 64 * T::kK);
        cuda::LoadMatrix4(raw.lower[b][i], address + b * 64 * T::kK + T::kPlaneBytes);
      }
    }
  }

  // Past K the planes read as zero bytes, which is not the code of zero: make it so.
  __device__ __forceinline__ void ZeroPast(Raw& raw, int valid_steps) {
#pragma unroll
    for (int b = 0; b < T::kBlocks; ++b) {
#pragma unroll
      for (int j = 0; j < kSteps; ++j) {
        if (j >= valid_steps) {
          raw.upper[b][j / 2][2 * (j % 2)] = raw.upper[b][j / 2][2 * (j % 2) + 1] = 0;
          raw.lower[b][j / 2][2 * (j % 2)] = raw.lower[b][j / 2][2 * (j % 2) + 1] = 0x40404040;
        }
      }
    }
  }

  __device__ __forceinline__ void Decode(const Raw& raw, Fragments& a) {
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
        const int i = j / 2;
        const int w = 2 * (j % 2);
        cuda::DecodeNested(raw.upper[b][i][w], raw.lower[b][i][w], a[b][j][0], a[b][j][2],
                           decode_mask_);
        cuda::DecodeNested(raw.upper[b][i][w + 1], raw.lower[b][i][w + 1], a[b][j][1], a[b][j][3],
                           decode_mask_);
      }
    }
  }

  // A RingIndex whose stage the compiler knows.
  template <uint32_t kStage>
  struct KnownIndex {
    static constexpr uint32_t stage = kStage;
    uint32_t phase;
  };

  // Granule g, in stage `at`, multiplies while g + 1 is decoded and g + kAhead, in stage `ahead`,
  // is read: the wgmma queue never drains. kFragment alternates, since registers of a wgmma in
  // flight must not change; kPart is the granule's place in its stage; kSteady: there are kAhead
  // more, none of them in the last stage.
  template <int kFragment, int kPart, bool kSteady, class At, class Ahead>
  __device__ __forceinline__ void Granule(const At& at, const Ahead& ahead, int left, bool first,
                                          int last_k) {
    if constexpr (T::kSeparate && kPart == 0) {
      cuda::BarrierWait(shared_.FullX(at.stage), at.phase);
    }
    cuda::WgmmaFence();
    const uint32_t x = x_ + at.stage * (T::kStageBytes / 16);
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      constexpr int kBase = kPart * kSteps;
      const int step = kBase + j;
      const uint64_t descriptor = cuda::WgmmaDescriptor128B(0) |
                                  (x + (step / 4) * (T::kTokens * 128 / 16) + (step % 4) * 2);
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
        cuda::Mma<T::kTokens>::RegistersF16(acc[b], fragments_[kFragment][b][j], descriptor, 1);
      }
    }
    cuda::WgmmaCommit();
    if constexpr (T::kSeparate && kPart == kGranules - 1) {
      release_.Weights(at.stage);  // they have become fragments
    }
    if (kSteady || left > kAhead) {
      Read<(kPart + kAhead) % kGranules>(ahead, raw_[(kFragment + kAhead) % kAhead]);
      if (!kSteady && left - kAhead <= kGranules && last_k != T::kK) {
        ZeroPast(raw_[(kFragment + kAhead) % kAhead],
                 last_k / 16 - (kGranules - (left - kAhead)) * kSteps);
      }
    }
    cuda::WgmmaWait<1>();
    if constexpr (kPart == 0) {
      release_.X(Before(at.stage), !first);
    }
    if (kSteady || left > 1) {
      Decode(raw_[(kFragment + 1) % kAhead], fragments_[kFragment ^ 1]);
    }
  }

  // Reads the granule which is this part of its stage.
  template <int kPart, class At>
  __device__ __forceinline__ void Read(const At& at, Raw& raw) {
    if constexpr (kPart == 0) {
      cuda::BarrierWait(shared_.Full(at.stage), at.phase);
    }
    LoadRaw(raw, at.stage, kPart);
  }

  // Granules that a loop takes at a time: both buffers of fragments, whole stages.
  static constexpr int kPeriod = kGranules > 2 ? kGranules : 2;
  static constexpr int kAheadStages = kAhead / kGranules;  // of a stage's first granule

  template <bool kSteady, int kGranule = 0>
  __device__ __forceinline__ void Period(int left, bool first, int last_k) {
    if (kSteady || left > kGranule) {
      constexpr int kPart = kGranule % kGranules;
      this->template Granule<kGranule % 2, kPart, kSteady>(index_, read_, left - kGranule,
                                                           first && kGranule < kGranules, last_k);
      if constexpr ((kPart + kAhead) % kGranules == kGranules - 1) {
        read_.template Advance<T::kStages>();
      }
      if constexpr (kPart == kGranules - 1) {
        index_.template Advance<T::kStages>();
      }
      if constexpr (kGranule + 1 < kPeriod) {
        Period<kSteady, kGranule + 1>(left, first, last_k);
      }
    }
  }

  // The steady state, from the start of the ring: rounds of it (two at a time where it has an odd
  // number of granules) with an exit before each pair of granules that begins a stage.
  static constexpr int kRound = T::kStages * kGranules;
  static constexpr int kRounds = 1 + kRound % 2;

  template <int kGranule>
  using Known = KnownIndex<kGranule / kGranules % T::kStages>;
  template <int kGranule>
  __device__ __forceinline__ Known<kGranule> At() const {
    return {index_.phase ^ (kGranule / kRound % 2)};
  }

  template <int kGranule = 0>
  __device__ __forceinline__ bool Rounds(int& left, bool& first) {
    if constexpr (kGranule % kGranules == 0) {
      if (left < kPeriod + kGranules + kAhead) {
        index_ = {Known<kGranule>::stage, At<kGranule>().phase};
        return false;
      }
    }
    // Descriptors are computed here: ahead of the loop, there are not registers for all of them.
    asm volatile("" : "+r"(x_));
    this->template Granule<0, kGranule % kGranules, true>(At<kGranule>(), At<kGranule + kAhead>(),
                                                          left, first, T::kK);
    this->template Granule<1, (kGranule + 1) % kGranules, true>(
        At<kGranule + 1>(), At<kGranule + 1 + kAhead>(), left, false, T::kK);
    left -= 2;
    first = false;
    if constexpr (kGranule + 2 < kRounds * kRound) {
      return Rounds<kGranule + 2>(left, first);
    } else {
      index_.phase ^= kRounds % 2;
      return true;
    }
  }

  const SharedLayout<T>& shared_;
  uint32_t decode_mask_;
  RingIndex index_;
  RingIndex read_;  // of the granule that is read next
  uint32_t x_;      // X of stage 0, as descriptors have it
  StageRelease<T> release_;
  uint32_t raw_address_[kPairs];
  Raw raw_[kAhead];
  Fragments fragments_[2];
};

}  // namespace dualfp::sm90
