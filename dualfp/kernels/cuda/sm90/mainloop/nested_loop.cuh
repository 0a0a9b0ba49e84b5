// The K loop of weights in two planes: these become FP16 or BF16 fragments in registers, which
// multiply X in shared memory.

#pragma once

#include <type_traits>

#include "dualfp/kernels/cuda/common/wgmma.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop/nested12_planes.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop/nested_planes.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop/tiny_sums.cuh"
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
        planes_(p, shared),
        x_((shared.X(0) & 0x3FFFF) >> 4),
        release_(shared, place),
        has_sums_(p.tiny != nullptr) {}

  // Before Run, and well before it: asks for what a tile at weight `row0` wants from global memory.
  __device__ __forceinline__ void Fetch(const GemmParams& p, int row0) {
    if constexpr (T::kPatches) {
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
        tiny_[b].Fetch(p, row0 + (MatrixRow<T>() & ~63) + b * 64);
      }
    }
  }

  // acc = W tile · X tileᵀ over `stages` stages of the ring, which begin with stage `begin` of K
  // and of which the last holds `last_k` <= kK elements of it. Needs stages >= 1.
  __device__ __forceinline__ void Run(int begin, int stages, int last_k) {
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
    // The shuffle tells the compiler that the value is uniform across the warp.
    int left = __shfl_sync(0xFFFFFFFFu, stages * kGranules, 0);
    BeginTiny(begin, left);
    Prime(left, last_k);
    RunLoop(left, last_k);
#pragma unroll
    for (int b = 0; b < T::kBlocks; ++b) {
      cuda::WgmmaPin(acc[b]);
    }
    if constexpr (T::kSums) {
      if (has_sums_) {
        AddTinySums(shared_, sums_phase_, acc);
        sums_phase_ ^= 1;
      }
    }
  }

 private:
  // 16-element steps of K that are decoded together and committed as one group: a granule. Two, so
  // that decoding begins while half a stage still multiplies; four where there are too few tokens
  // for the tensor cores to bound anything.
  static constexpr int kSteps = T::kBlocks == 1 && T::kTokens < 48 ? 4 : 2;
  static constexpr int kGranules = T::kK / (16 * kSteps);  // in a stage
  // Granules by which reading runs ahead of multiplying. Two hide the latency of shared memory
  // behind the decoding of the granule between.
  static constexpr int kAhead = T::kBlocks == 1 && kSteps == 2 ? 2 : 1;

  using Planes =
      std::conditional_t<T::kNested12, Nested12Planes<T, kSteps>, NestedPlanes<T, kSteps>>;
  using Raw = typename Planes::Raw;

  // A RingIndex whose stage the compiler knows.
  template <uint32_t kStage>
  struct KnownIndex {
    static constexpr uint32_t stage = kStage;
    uint32_t phase;
  };

  __device__ __forceinline__ void BeginTiny(int begin, int left) {
    if constexpr (T::kPatches) {
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
        tiny_[b].Begin(begin * T::kK, left);
      }
    }
  }

  // Reads and decodes what RunLoop wants to find, of at least one granule.
  __device__ __forceinline__ void Prime(int left, int last_k) {
    read_ = index_;
    Read<0>(read_, raw_[0]);
    if (left == kGranules && last_k != T::kK) {
      planes_.ZeroPast(raw_[0], last_k / 16);
    }
    if constexpr (kGranules == 1) {
      read_.template Advance<T::kStages>();
    }
    if constexpr (kAhead == 2) {
      if (left > 1) {
        Read<1 % kGranules>(read_, raw_[1]);
        if (left - 1 <= kGranules && last_k != T::kK) {
          planes_.ZeroPast(raw_[1], last_k / 16 - (kGranules - (left - 1)) * kSteps);
        }
      }
      if constexpr (kGranules <= 2) {
        read_.template Advance<T::kStages>();
      }
    }
    Decode(raw_[0], fragments_[0], left);
  }

  // The next `left` granules of the ring, at least one.
  __device__ __forceinline__ void RunLoop(int left, int last_k) {
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
  }

  __device__ __forceinline__ static uint32_t Before(uint32_t stage) {
    return stage == 0 ? T::kStages - 1 : stage - 1;
  }

  // Of the granule after which `left - 1` are left.
  __device__ __forceinline__ void Decode(const Raw& raw, Fragments<T, kSteps>& a, int left) {
    planes_.Decode(raw, a);
    PatchTiny(a, left);
  }

  __device__ __forceinline__ void PatchTiny(Fragments<T, kSteps>& a, int left) {
    if constexpr (T::kPatches) {
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
        if (__builtin_expect(tiny_[b].Due(left), 0)) {
          tiny_[b].Patch(left, a[b]);
        }
      }
    }
  }

  __device__ __forceinline__ void Multiply(float (&d)[T::kTokens / 2], const uint32_t (&a)[4],
                                           uint64_t x) const {
    if constexpr (T::kFormat == WeightFormat::kNested12Bf16) {
      cuda::Mma<T::kTokens>::RegistersBf16(d, a, x, 1);
    } else {
      cuda::Mma<T::kTokens>::RegistersF16(d, a, x, 1);
    }
  }

  // Of the stage whose X begins at `x`, as descriptors have it, the part-th granule.
  __device__ __forceinline__ void MultiplyGranule(const Fragments<T, kSteps>& a, uint32_t x,
                                                  int part) {
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      const int step = part * kSteps + j;
      const uint64_t descriptor = cuda::WgmmaDescriptor128B(0) |
                                  (x + (step / 4) * (T::kTokens * 128 / 16) + (step % 4) * 2);
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
        Multiply(acc[b], a[b][j], descriptor);
      }
    }
    cuda::WgmmaCommit();
  }

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
    MultiplyGranule(fragments_[kFragment], x_ + at.stage * (T::kStageBytes / 16), kPart);
    if constexpr (T::kSeparate && kPart == kGranules - 1) {
      release_.Weights(at.stage);  // they have become fragments
    }
    if (kSteady || left > kAhead) {
      Read<(kPart + kAhead) % kGranules>(ahead, raw_[(kFragment + kAhead) % kAhead]);
      if (!kSteady && left - kAhead <= kGranules && last_k != T::kK) {
        planes_.ZeroPast(raw_[(kFragment + kAhead) % kAhead],
                         last_k / 16 - (kGranules - (left - kAhead)) * kSteps);
      }
    }
    cuda::WgmmaWait<1>();
    if constexpr (kPart == 0) {
      release_.X(Before(at.stage), !first);
    }
    if (kSteady || left > 1) {
      Decode(raw_[(kFragment + 1) % kAhead], fragments_[kFragment ^ 1], left - 1);
    }
  }

  // Reads the granule which is this part of its stage.
  template <int kPart, class At>
  __device__ __forceinline__ void Read(const At& at, Raw& raw) {
    if constexpr (kPart == 0) {
      cuda::BarrierWait(shared_.Full(at.stage), at.phase);
    }
    planes_.Load(raw, at.stage, kPart);
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
        At<kGranule + 1>(), At<kGranule + 1 + kAhead>(), left - 1, false, T::kK);
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
  Planes planes_;
  RingIndex index_;
  RingIndex read_;  // of the granule that is read next
  uint32_t x_;      // X of stage 0, as descriptors have it
  StageRelease<T> release_;
  bool has_sums_;
  uint32_t sums_phase_ = 0;
  TinyWeights<T, kSteps> tiny_[T::kBlocks];  // where fragments are patched
  Raw raw_[kAhead];
  Fragments<T, kSteps> fragments_[2];
};

}  // namespace dualfp::sm90
