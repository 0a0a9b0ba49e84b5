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

// value / split, for value < 2^29.
__device__ __forceinline__ int DivideBySplit(const GemmParams& p, int value) {
  return p.cluster.split == 1
             ? value
             : static_cast<int>(__umulhi(static_cast<uint32_t>(value), p.split_reciprocal));
}

// This CTA's place in its cluster.
struct ClusterPlace {
  ClusterShape shape;
  int split_rank;
  int x_rank;  // among the CTAs that share an X tile
  int w_rank;  // among the CTAs that share a W tile

  __device__ ClusterPlace(const GemmParams& p, int rank) : shape(p.cluster) {
    const int tile = DivideBySplit(p, rank);
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
      cuda::BarrierInit(shared.Empty(lane), T::kConsumers / 32 * place.peers());
    }
    if (lane == 0) {
      cuda::BarrierInit(shared.ReduceBarrier(), 1);
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
      cuda::BarrierWait(shared.Empty(index.stage), index.phase ^ 1);
      if (cuda::ElectOne()) {
        const uint32_t full = shared.Full(index.stage);
        const int column = k + i * T::kK;
        if constexpr (kOperand == Operand::kWeights) {
          // All bytes of the stage, the other operands' and the other CTAs' parts included.
          cuda::BarrierArriveExpect(full, T::kStageBytes);
          Load(shared.Weights(index.stage) + offset * T::kK, &p.w, full, column, first + offset,
               shares, mask, p.w_policy);
        } else if constexpr (kOperand == Operand::kLower) {
          Load(shared.Lower(index.stage) + offset * T::kK, &p.w_lower, full, column, first + offset,
               shares, mask, p.w_policy);
        } else {
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
  }

 private:
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

// Runs body(operand) in the warp of the loader warpgroup that loads that operand.
template <class T, class Body>
__device__ __forceinline__ void ForEachOperand(const Body& body) {
  using Operand = typename Loader<T>::Operand;
  const int warp = __shfl_sync(0xFFFFFFFFu, (threadIdx.x - T::kConsumers) / 32, 0);
  if (warp == 0) {
    body(std::integral_constant<Operand, Operand::kWeights>());
  } else if (warp == 1) {
    cuda::GridWaitForPrevious();
    body(std::integral_constant<Operand, Operand::kX>());
  } else if (T::kNested && warp == 2) {
    body(std::integral_constant<Operand, Operand::kLower>());
  }
}

// The consumers' side. One object a thread; `index` runs on across tiles.
template <class T>
class Consumer {
 public:
  float acc[T::kBlocks][T::kTokens / 2];

  __device__ Consumer(const SharedLayout<T>& shared, const ClusterPlace& place)
      : shared_(shared),
        peers_(place.peers()),
        // The shuffle tells the compiler that the value is uniform across the warp.
        warpgroup_(__shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0)),
        lane_(threadIdx.x % 32),
        peer_(place.Peer(min(static_cast<int>(lane_), place.peers() - 1))) {
    if constexpr (T::kNested) {
      // This lane's row address for ldmatrix, see LoadRaw.
      const int row = threadIdx.x / 32 % 4 * 16 + (lane_ & 15) + warpgroup_ * T::kBlocks * 64;
      row_offset_ = row * T::kK;
      swizzle_ = T::kK == 128 ? (row & 7) : ((row >> 1) & 3);
    }
  }

  // acc = W tile · X tileᵀ over `stages` stages of the ring, of which the last holds
  // `last_k` <= kK elements of K. Needs stages >= 1.
  __device__ __forceinline__ void Run(int stages, int last_k) {
    if constexpr (T::kNested) {
      RunNested(stages, last_k);
    } else {
      RunShared(stages);
    }
#pragma unroll
    for (int b = 0; b < T::kBlocks; ++b) {
      cuda::WgmmaPin(acc[b]);
    }
  }

 private:
  // 16-element steps of K that are decoded together and committed as one group.
  static constexpr int kSteps = T::kBlocks == 1 ? 4 : 2;
  static constexpr int kGranules = T::kK / (16 * kSteps);  // in a stage

  struct Raw {
    uint32_t upper[T::kBlocks][kSteps / 2][4];
    uint32_t lower[T::kBlocks][kSteps / 2][4];
  };
  using Fragments = uint32_t[T::kBlocks][kSteps][4];

  // This warp has finished with a stage: tell every loader that fills it.
  __device__ __forceinline__ void Release(uint32_t stage) {
    if (peers_ == 1) {
      if (lane_ == 0) {
        cuda::BarrierArrive(shared_.Empty(stage));
      }
    } else if (lane_ < peers_) {
      cuda::BarrierArriveCluster(shared_.Empty(stage), peer_);
    }
  }

  // Bytes of the planes: one ldmatrix reads rows r..r+15 and 32 bytes of K of this warp, so that
  // words 0, 1 are rows g and g+8 of the first 16 bytes and words 2, 3 of the second.
  __device__ __forceinline__ void LoadRaw(Raw& raw, uint32_t stage, int granule) {
#pragma unroll
    for (int b = 0; b < T::kBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < kSteps / 2; ++i) {
        const uint32_t chunk = granule * kSteps + 2 * i + (lane_ >> 4);
        const uint32_t offset = row_offset_ + b * 64 * T::kK + ((chunk ^ swizzle_) << 4);
        cuda::LoadMatrix4(raw.upper[b][i], shared_.Weights(stage) + offset);
        cuda::LoadMatrix4(raw.lower[b][i], shared_.Lower(stage) + offset);
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

  __device__ __forceinline__ static void Decode(const Raw& raw, Fragments& a) {
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
        const int i = j / 2;
        const int w = 2 * (j % 2);
        cuda::DecodeNested(raw.upper[b][i][w], raw.lower[b][i][w], a[b][j][0], a[b][j][2]);
        cuda::DecodeNested(raw.upper[b][i][w + 1], raw.lower[b][i][w + 1], a[b][j][1], a[b][j][3]);
      }
    }
  }

  // Granule g multiplies while granule g + 1 is read and decoded: the wgmma queue never drains.
  // kFragment alternates, since registers of a wgmma in flight must not change; kPart is the
  // granule's place in its stage.
  template <int kFragment, int kPart>
  __device__ __forceinline__ void Granule(int left, bool first, int last_k) {
    cuda::WgmmaFence();
    const uint64_t x = cuda::WgmmaDescriptor128B(shared_.X(index_.stage));
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      constexpr int kBase = kPart * kSteps;
      const int step = kBase + j;
      const uint64_t b_descriptor = x + (step / 4) * (T::kTokens * 128 / 16) + (step % 4) * 2;
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
        cuda::Mma<T::kTokens>::RegistersF16(acc[b], fragments_[kFragment][b][j], b_descriptor,
                                            j > 0 || !first);
      }
    }
    cuda::WgmmaCommit();
    RingIndex next = index_;
    if constexpr (kPart == kGranules - 1) {
      next.template Advance<T::kStages>();
    }
    Raw raw;
    if (left > 1) {
      if constexpr (kPart == kGranules - 1) {
        cuda::BarrierWait(shared_.Full(next.stage), next.phase);
      }
      LoadRaw(raw, next.stage, kPart == kGranules - 1 ? 0 : kPart + 1);
      if (left - 1 <= kGranules && last_k != T::kK) {
        ZeroPast(raw, last_k / 16 - (kGranules - (left - 1)) * kSteps);
      }
    }
    cuda::WgmmaWait<1>();
    if constexpr (kPart == 0) {
      if (!first) {
        Release(index_.stage == 0 ? T::kStages - 1 : index_.stage - 1);
      }
    }
    if (left > 1) {
      Decode(raw, fragments_[kFragment ^ 1]);
    }
    index_ = next;
  }

  __device__ __forceinline__ void RunNested(int stages, int last_k) {
    cuda::BarrierWait(shared_.Full(index_.stage), index_.phase);
    Raw raw;
    LoadRaw(raw, index_.stage, 0);
    if (stages == 1 && last_k != T::kK) {
      ZeroPast(raw, last_k / 16);
    }
    Decode(raw, fragments_[0]);
    int left = stages * kGranules;
    bool first = true;
    if constexpr (kGranules == 1) {
      for (; left >= 2; left -= 2) {
        Granule<0, 0>(left, first, last_k);
        first = false;
        Granule<1, 0>(left - 1, first, last_k);
      }
      if (left == 1) {
        Granule<0, 0>(left, first, last_k);
      }
    } else if constexpr (kGranules == 2) {
      for (; left > 0; left -= 2) {
        Granule<0, 0>(left, first, last_k);
        first = false;
        Granule<1, 1>(left - 1, first, last_k);
      }
    } else {
      static_assert(kGranules == 4);
      for (; left > 0; left -= 4) {
        Granule<0, 0>(left, first, last_k);
        first = false;
        Granule<1, 1>(left - 1, first, last_k);
        Granule<0, 2>(left - 2, first, last_k);
        Granule<1, 3>(left - 3, first, last_k);
      }
    }
    cuda::WgmmaWait<0>();
    Release(index_.stage == 0 ? T::kStages - 1 : index_.stage - 1);
  }

  __device__ __forceinline__ void RunShared(int stages) {
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
        Release(index_.stage == 0 ? T::kStages - 1 : index_.stage - 1);
      }
      index_.template Advance<T::kStages>();
    }
    cuda::WgmmaWait<0>();
    Release(index_.stage == 0 ? T::kStages - 1 : index_.stage - 1);
  }

  const SharedLayout<T>& shared_;
  RingIndex index_;
  uint32_t peers_;
  uint32_t warpgroup_;
  uint32_t lane_;
  uint32_t peer_;  // lane l tells peer l
  uint32_t row_offset_ = 0;
  uint32_t swizzle_ = 0;
  Fragments fragments_[2];
};

}  // namespace dualfp::sm90
