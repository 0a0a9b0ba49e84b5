// Producer and consumers of the K loop: a ring of shared-memory stages filled by TMA and eaten by
// wgmma.

#pragma once

#include <type_traits>

#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/cuda/common/matrix.cuh"
#include "dualfp/kernels/cuda/common/nested_decode.cuh"
#include "dualfp/kernels/cuda/common/tma.cuh"
#include "dualfp/kernels/cuda/common/wgmma.cuh"
#include "dualfp/kernels/cuda/sm90/gemm_params.h"
#include "dualfp/kernels/cuda/sm90/tile.cuh"

namespace dualfp::sm90 {

// This CTA's place in its cluster.
struct ClusterPlace {
  ClusterShape shape;
  int split_rank;
  int x_rank;  // among the CTAs that share an X tile
  int w_rank;  // among the CTAs that share a W tile

  __device__ ClusterPlace(const GemmParams& p, int rank) : shape(p.cluster) {
    const int tile = p.split.Quotient(rank);
    split_rank = rank - tile * shape.split;
    x_rank = tile & (shape.share_x - 1);
    w_rank = tile >> (31 - __clz(shape.share_x));
  }

  __device__ int Rank(int x, int w) const {
    return split_rank + shape.split * (x + shape.share_x * w);
  }
  __device__ bool shares() const { return shape.share_x * shape.share_w > 1; }
  // CTAs that this one loads for, itself included, and the rank of each.
  __device__ int peers() const { return shape.share_x + shape.share_w - 1; }
  __device__ int Peer(int index) const {
    if (index < shape.share_x) {
      return Rank(index, w_rank);
    }
    const int w = index - shape.share_x;
    return Rank(x_rank, w + (w >= w_rank ? 1 : 0));
  }
  __device__ uint16_t XMask() const {
    uint32_t mask = 0;
    for (int x = 0; x < shape.share_x; ++x) {
      mask |= 1u << Rank(x, w_rank);
    }
    return static_cast<uint16_t>(mask);
  }
  __device__ uint16_t WMask() const {
    uint32_t mask = 0;
    for (int w = 0; w < shape.share_w; ++w) {
      mask |= 1u << Rank(x_rank, w);
    }
    return static_cast<uint16_t>(mask);
  }
};

// After this all barriers of the cluster that copies or arrivals may touch exist.
template <class T>
__device__ __forceinline__ void InitRing(const SharedLayout<T>& shared, const ClusterPlace& place) {
  static_assert(T::kStages <= 32);
  const int lane = threadIdx.x;
  if (lane < 32) {
    if (lane < T::kStages) {
      cuda::BarrierInit(shared.Full(lane), 1);
      cuda::BarrierInit(shared.Empty(lane), 4 * T::kSharers * place.peers());
      if constexpr (T::kSeparate) {
        cuda::BarrierInit(shared.FullX(lane), 1);
        cuda::BarrierInit(shared.EmptyX(lane), 4 * T::kSharers * place.peers());
      }
    }
    if (lane < T::kWarpgroups) {
      cuda::BarrierInit(shared.SumBarrier(lane), 1);
    }
    cuda::BarrierInitFence();
  }
  if (place.shares()) {
    cuda::ClusterSyncRelaxed();  // BarrierInitFence is the release
  } else {
    __syncthreads();
  }
}

// The first instruction of each role.
template <class T>
__device__ __forceinline__ void BecomeLoader() {
  if constexpr (T::kLoaderRegisters != 0) {
    cuda::LowerRegisters<T::kLoaderRegisters>();
  }
}
template <class T>
__device__ __forceinline__ void BecomeConsumer() {
  if constexpr (T::kConsumerRegisters != 0) {
    cuda::RaiseRegisters<T::kConsumerRegisters>();
  }
}

// Fills stages of the ring. Each operand has a warp of its own: weights need not wait for the
// previous kernel, X must not queue behind a ringful of weights, and issuing a copy takes a warp
// longer than a wgmma of few columns.
template <class T>
class Loader {
 public:
  enum class Operand { kWeights, kLower, kX };

  // Weights: `first` is the tile's row; X: its token.
  template <Operand kOperand>
  __device__ __forceinline__ static void Run(const GemmParams& p, const SharedLayout<T>& shared,
                                             const ClusterPlace& place, RingIndex& index, int first,
                                             int k, int stages) {
    constexpr bool kIsX = kOperand == Operand::kX;
    const int shares = kIsX ? place.shape.share_x : place.shape.share_w;
    const int rank = kIsX ? place.x_rank : place.w_rank;
    const int offset = rank * ((kIsX ? T::kTokens : T::kRows) / shares);
    const uint16_t mask = kIsX ? place.XMask() : place.WMask();
    for (int i = 0; i < stages; ++i) {
      cuda::BarrierWait(kIsX ? shared.EmptyX(index.stage) : shared.Empty(index.stage),
                        index.phase ^ 1);
      if (cuda::ElectOne()) {
        const uint32_t full = kIsX ? shared.FullX(index.stage) : shared.Full(index.stage);
        const int column = k + i * T::kK;
        if constexpr (kOperand == Operand::kWeights) {
          // All bytes that complete the barrier, other warps' and other CTAs' parts included.
          cuda::BarrierArriveExpect(full, T::kSeparate ? T::kWeightBytes : T::kStageBytes);
          Load(shared.Weights(index.stage) + offset * T::kK, &p.w, full, column, first + offset,
               shares, mask, p.w_policy);
        } else if constexpr (kOperand == Operand::kLower) {
          Load(shared.Lower(index.stage) + offset * T::kK, &p.w_lower, full, column, first + offset,
               shares, mask, p.w_policy);
        } else {
          if constexpr (T::kSeparate) {
            cuda::BarrierArriveExpect(full, T::kXBytes);
          }
#pragma unroll
          for (int box = 0; box < T::kXBoxes; ++box) {
            Load(shared.X(index.stage) + (box * T::kTokens + offset) * 128, &p.x, full,
                 column + box * T::kXBoxElements, first + offset, shares, mask, p.x_policy);
          }
        }
      }
      __syncwarp();
      index.template Advance<T::kStages>();
    }
    if constexpr (T::kUnrolled) {
      Skip<kOperand>(shared, index);
    }
  }

 private:
  // The rest of the ring's round: stages without bytes, which who announces the bytes of others
  // completes; the others do not wait there, where nobody waits for them.
  template <Operand kOperand>
  __device__ __forceinline__ static void Skip(const SharedLayout<T>& shared, RingIndex& index) {
    constexpr bool kIsX = kOperand == Operand::kX;
    if constexpr (kOperand == Operand::kWeights || (kIsX && T::kSeparate)) {
      while (index.stage != 0) {
        cuda::BarrierWait(kIsX ? shared.EmptyX(index.stage) : shared.Empty(index.stage),
                          index.phase ^ 1);
        if (cuda::ElectOne()) {
          cuda::BarrierArriveExpect(kIsX ? shared.FullX(index.stage) : shared.Full(index.stage), 0);
        }
        __syncwarp();
        index.template Advance<T::kStages>();
      }
    } else if (index.stage != 0) {
      index.stage = 0;
      index.phase ^= 1;
    }
  }

  __device__ __forceinline__ static void Load(uint32_t target, const CUtensorMap* map,
                                              uint32_t barrier, int x, int y, int shares,
                                              uint16_t mask, uint64_t policy) {
    if (shares > 1) {
      cuda::TmaLoad2DMulticast(target, map, barrier, x, y, mask, policy);
    } else {
      cuda::TmaLoad2D(target, map, barrier, x, y, policy);
    }
  }
};

// Runs body(operand) in the warp of the loader warpgroup that loads that operand, X after the
// previous kernel.
template <class T, class Body>
__device__ __forceinline__ void ForEachOperand(const GemmParams& p, const Body& body) {
  using Operand = typename Loader<T>::Operand;
  const int warp = __shfl_sync(0xFFFFFFFFu, (threadIdx.x - T::kConsumers) / 32, 0);
  if (warp == 0) {
    if constexpr (T::kByToken) {
      cuda::PrefetchTensorMap(&p.w);
      cuda::GridWaitForPrevious();
    }
    body(std::integral_constant<Operand, Operand::kWeights>());
  } else if (warp == 1) {
    if constexpr (!T::kByToken) {
      cuda::PrefetchTensorMap(&p.x);
      cuda::GridWaitForPrevious();
    }
    body(std::integral_constant<Operand, Operand::kX>());
  } else if (T::kNested && warp == 2) {
    body(std::integral_constant<Operand, Operand::kLower>());
  }
}

// Tells the loaders that fill a stage that this warp has finished with its weights, or with X and
// so with all of it.
template <class T>
class StageRelease {
 public:
  __device__ StageRelease(const SharedLayout<T>& shared, const ClusterPlace& place)
      : own_(shared.Empty(0)), peers_(place.peers()), lane_(threadIdx.x % 32) {
    peer_ = cuda::ClusterAddress(own_, place.Peer(min(lane_, peers_ - 1)));
  }

  __device__ __forceinline__ void Weights(uint32_t stage) const { Arrive(8 * stage, true); }
  __device__ __forceinline__ void X(uint32_t stage, bool really = true) const {
    Arrive(8 * stage + SharedLayout<T>::kXBarriers, really);
  }

 private:
  // No branches: one of the arrivals is predicated off.
  __device__ __forceinline__ void Arrive(uint32_t offset, bool really) const {
    cuda::BarrierArriveIf(really && peers_ == 1 && lane_ == 0, own_ + offset);
    cuda::BarrierArriveAtIf(really && peers_ > 1 && lane_ < peers_, peer_ + offset);
  }

  uint32_t own_;   // empty barrier of stage 0,
  uint32_t peer_;  // and of the CTA that this lane tells
  int peers_;
  int lane_;
};

// The consumers' side. One object a thread; `index` runs on across tiles.
template <class T>
class Consumer {
 public:
  float acc[T::kBlocks][T::kTokens / 2];

  __device__ Consumer(const GemmParams& p, const SharedLayout<T>& shared, const ClusterPlace& place)
      : shared_(shared),
        decode_mask_(p.decode_mask),
        // The shuffle tells the compiler that the value is uniform across the warp.
        warpgroup_(T::kTurns ? 0 : __shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0)),
        release_(shared, place) {
    if constexpr (T::kNested) {
      x_ = (shared.X(0) & 0x3FFFF) >> 4;
      // This lane's row address for ldmatrix, see LoadRaw.
      const int lane = threadIdx.x % 32;
      const int row = threadIdx.x / 32 % 4 * 16 + (lane & 15) + warpgroup_ * T::kBlocks * 64;
      const int swizzle = T::kK == 128 ? (row & 7) : ((row >> 1) & 3);
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        raw_address_[i] = shared.ring + row * T::kK + (((2 * i + (lane >> 4)) ^ swizzle) << 4);
      }
    }
  }

  // acc = W tile · X tileᵀ over `stages` stages of the ring, of which the last holds
  // `last_k` <= kK elements of K. Needs stages >= 1. FP8: issued() is called while the
  // last one multiplies.
  template <class Issued>
  __device__ __forceinline__ void Run(int stages, int last_k, const Issued& issued) {
    if constexpr (T::kNested) {
      RunNested(stages, last_k);
    } else {
      RunShared(stages, issued);
    }
#pragma unroll
    for (int b = 0; b < T::kBlocks; ++b) {
      cuda::WgmmaPin(acc[b]);
    }
  }

  // Passes over stages that the other warpgroup multiplies. (A stage may be waited for when the one
  // a ring before it is full, no earlier: barriers tell even rounds from odd ones, no more.)
  __device__ __forceinline__ void Skip(int stages) {
    const uint32_t stage = index_.stage + stages;
    index_.phase ^= stage / T::kStages & 1;
    index_.stage = stage % T::kStages;
  }

 private:
  // 16-element steps of K that are decoded together and committed as one group: a granule.
  static constexpr int kSteps = T::kBlocks == 1 ? 4 : 2;
  static constexpr int kGranules = T::kK / (16 * kSteps);  // in a stage
  static constexpr int kPairs = T::kK / 32;                // of steps in a stage: one ldmatrix each
  // Granules by which reading runs ahead of multiplying. Two hide the latency of shared memory
  // behind the decoding of the granule between, but leave a granule less of the ring to wait for
  // copies: right where tensor cores bound, wrong where memory does.
  static constexpr int kAhead =
      T::kBlocks == 1 && T::kK == 64 && T::kTokens >= 96 && T::kStages >= (T::kSeparate ? 5 : 6)
          ? 2
          : 1;

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
  static constexpr int kPeriod = 2;
  static_assert(!T::kNested || kGranules <= 2);
  static constexpr int kAheadStages = kAhead / kGranules;  // of a stage's first granule

  template <bool kSteady, int kGranule = 0>
  __device__ __forceinline__ void Period(int left, bool first, int last_k) {
    if (kSteady || left > kGranule) {
      constexpr int kPart = kGranule % kGranules;
      this->template Granule<kGranule, kPart, kSteady>(index_, read_, left - kGranule,
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
  // number of granules) with an exit after each period.
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
    if (left < kPeriod + kGranules + kAhead) {
      index_ = {Known<kGranule>::stage, At<kGranule>().phase};
      return false;
    }
    // Descriptors are computed here: ahead of the loop, there are not registers for all of them.
    asm volatile("" : "+r"(x_));
    this->template Granule<0, 0, true>(At<kGranule>(), At<kGranule + kAhead>(), left, first, T::kK);
    this->template Granule<1, 1 % kGranules, true>(At<kGranule + 1>(), At<kGranule + 1 + kAhead>(),
                                                   left, false, T::kK);
    left -= kPeriod;
    first = false;
    if constexpr (kGranule + kPeriod < kRounds * kRound) {
      return Rounds<kGranule + kPeriod>(left, first);
    } else {
      index_.phase ^= kRounds % 2;
      return true;
    }
  }

  __device__ __forceinline__ void RunNested(int stages, int last_k) {
#pragma unroll
    for (int b = 0; b < T::kBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < T::kTokens / 2; ++i) {
        acc[b][i] = 0.0f;
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
      static_assert(kGranules == 1);
      if (left > 1) {
        Read<0>(read_, raw_[1]);
        if (left == 2 && last_k != T::kK) {
          ZeroPast(raw_[1], last_k / 16);
        }
      }
      read_.template Advance<T::kStages>();
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
    if constexpr (T::kUnrolled) {
      while (index_.stage != 0) {  // stages that the loaders skip
        cuda::BarrierWait(shared_.Full(index_.stage), index_.phase);
        if constexpr (T::kSeparate) {
          cuda::BarrierWait(shared_.FullX(index_.stage), index_.phase);
          release_.Weights(index_.stage);
        }
        release_.X(index_.stage);
        index_.template Advance<T::kStages>();
      }
    }
  }

  template <class Issued>
  __device__ __forceinline__ void RunShared(int stages, const Issued& issued) {
    for (int i = 0; i < stages; ++i) {
      cuda::BarrierWait(shared_.Full(index_.stage), index_.phase);
      cuda::WgmmaFence();
      const uint64_t x = cuda::WgmmaDescriptor128B(shared_.X(index_.stage));
      const uint64_t w = cuda::WgmmaDescriptor128B(shared_.Weights(index_.stage)) +
                         warpgroup_ * T::kBlocks * (64 * 128 / 16);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int b = 0; b < T::kBlocks; ++b) {
          cuda::Mma<T::kTokens>::SharedE4m3(acc[b], w + b * (64 * 128 / 16) + step * 2,
                                            x + step * 2, step > 0 || i > 0);
        }
      }
      cuda::WgmmaCommit();
      cuda::WgmmaWait<1>();
      if (i > 0) {
        release_.X(Before(index_.stage));
      }
      index_.template Advance<T::kStages>();
    }
    issued();
    cuda::WgmmaWait<0>();
    release_.X(Before(index_.stage));
  }

  const SharedLayout<T>& shared_;
  uint32_t decode_mask_;
  RingIndex index_;
  RingIndex read_;      // nested: of the granule that is read next
  uint32_t x_;          // nested: X of stage 0, as descriptors have it
  uint32_t warpgroup_;  // among those that share a tile
  StageRelease<T> release_;
  uint32_t raw_address_[kPairs];
  Raw raw_[kAhead];
  Fragments fragments_[2];
};

}  // namespace dualfp::sm90
