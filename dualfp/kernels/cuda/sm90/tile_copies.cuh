// Tiles that the copy engine stores while the next tile is multiplied.

#pragma once

#include <type_traits>

#include "dualfp/kernels/cuda/sm90/store_tile.cuh"

namespace dualfp::sm90 {

// A warpgroup's part of a tile on its way to Y. An SM's stores move about 20 bytes a clock, so that
// storing a tile at once leaves the tensor cores idle for a tenth of a tile of K = 4096. Here they
// wait for no more than the rounding of the accumulators. What is rounded stays in registers until
// they have work again; it goes to staging memory in parts then, one for each of the next tile's
// first stages, from where the copy engine takes it.
template <class T>
class TileCopies {
 public:
  __device__ TileCopies(const GemmParams& p, StoreConstants<T>& constants, uint32_t staging)
      : p_(p), constants_(constants), staging_(staging) {
    TakeNothing();
  }

  // While stage `kPart` of a tile multiplies: stores a part of the tile before. The last publishes
  // the tile's constants.
  template <int kPart>
  __device__ __forceinline__ void Between(std::integral_constant<int, kPart>) {
    constexpr bool kLast = kPart == kParts - 1;
    if (!pending_ && !kLast) {
      return;
    }
    if (Leads()) {
      cuda::BulkWaitRead<0>();
    }
    WarpgroupSync();  // the buffers are free, and the last tile's constants have been read
    if (kLast) {
      constants_.Publish(p_.epilogue.alpha);
    }
    if (pending_) {
      Turn<2 * kPart, 2>(staging_);
    }
    WarpgroupSync();
    if (pending_) {
      Copy<2 * kPart, 2>(staging_);
    }
  }

  // Of what the accumulators hold: rows from row0 on, 64 * kBlocks of them, and a range of tokens.
  __device__ __forceinline__ void Take(StoreKind kind, const ConsumerOf<T>& consumer, int row0,
                                       int token0, TokenRange range) {
    if (kind == StoreKind::kFinished) {
      StoreFinished<T>(p_, consumer, constants_, staging_, row0, token0, range);
      TakeNothing();
      return;
    }
    pending_ = true;
    row0_ = row0;
    token0_ = token0;
    const int end = row0 < p_.n ? min(range.end, p_.m - token0) : 0;
    copies_ = 0;
#pragma unroll
    for (int chunk = 0; chunk < C::kCount; ++chunk) {
      const int token = chunk * C::kTokens;
      copies_ |= token >= range.begin && token < end ? 1u << chunk : 0u;
    }
    if (kind == StoreKind::kPlainF16) {
      Round<false>(consumer, OutputType::kF16);
    } else if (kind == StoreKind::kPlainBf16) {
      Round<false>(consumer, OutputType::kBf16);
    } else {
      Round<true>(consumer, p_.epilogue.y_type);
    }
  }

  // Instead of Take. (Registers that something is assigned to on every way to their use are free
  // until then.)
  __device__ __forceinline__ void TakeNothing() {
    pending_ = false;
#pragma unroll
    for (auto& block : packed_) {
#pragma unroll
      for (auto& chunk : block) {
#pragma unroll
        for (uint32_t& word : chunk) {
          word = 0;
        }
      }
    }
  }

  // After the last tile: at once, through the ring. All warpgroups call it.
  __device__ __forceinline__ void Finish(uint32_t ring) {
    static_assert(T::kWarpgroups * kChunks * C::kBytes <= T::kRingBytes);
    cuda::NamedBarrierSync(kWholeBarrier<T>, T::kConsumers);  // all have finished with the ring
    if (pending_) {
      const uint32_t staging = ring + threadIdx.x / 128 * kChunks * C::kBytes;
      Turn<0, kChunks>(staging);
      WarpgroupSync();
      Copy<0, kChunks>(staging);
    }
    if (Leads()) {
      cuda::BulkWaitRead<0>();  // shared memory must outlive the copies
    }
  }

 private:
  using C = Chunks<T>;
  static constexpr int kChunks = T::kBlocks * C::kCount;
  static constexpr int kParts = T::kStoreParts;
  static_assert(kParts == CeilDiv(kChunks, 2) && 2 * C::kBytes <= T::kWarpgroupStagingBytes);

  // The thread that owns this warpgroup's copies.
  __device__ static bool Leads() { return threadIdx.x % 128 == 0; }

  template <bool kScaled>
  __device__ __forceinline__ void Round(const ConsumerOf<T>& consumer, OutputType type) {
    const uint32_t scales = constants_.token_scale + threadIdx.x % 4 * 8;
#pragma unroll
    for (int block = 0; block < T::kBlocks; ++block) {
      const RowConstants rows(constants_, block);
#pragma unroll
      for (int chunk = 0; chunk < C::kCount; ++chunk) {
        C::template Pack<kScaled>(consumer.acc[block] + chunk * C::kTokens / 2,
                                  scales + chunk * C::kTokens * 4, rows, type,
                                  packed_[block][chunk]);
      }
    }
  }

  // Chunks [kFirst, kFirst + kCount) to staging buffers, readable by the copy engine after a
  // barrier.
  template <int kFirst, int kCount>
  __device__ __forceinline__ void Turn(uint32_t staging) const {
    const uint32_t target = C::LaneTarget(staging);
#pragma unroll
    for (int i = kFirst; i < kFirst + kCount && i < kChunks; ++i) {
      C::Turn(packed_[i / C::kCount][i % C::kCount], target + (i - kFirst) * C::kBytes);
    }
    cuda::FenceAsyncShared();
  }

  template <int kFirst, int kCount>
  __device__ __forceinline__ void Copy(uint32_t staging) const {
    if (!Leads()) {
      return;
    }
#pragma unroll
    for (int i = kFirst; i < kFirst + kCount && i < kChunks; ++i) {
      const int row = row0_ + i / C::kCount * 64;
      if ((copies_ >> (i % C::kCount) & 1) != 0 && row < p_.n) {
        cuda::TmaStore2D(&p_.y, staging + (i - kFirst) * C::kBytes, row,
                         token0_ + i % C::kCount * C::kTokens);
      }
    }
    cuda::BulkCommit();
  }

  const GemmParams& p_;
  StoreConstants<T>& constants_;
  uint32_t staging_;
  // Of a tile that has been taken:
  bool pending_ = false;
  uint32_t packed_[T::kBlocks][C::kCount][2 * C::kColumns];
  int row0_;
  int token0_;
  uint32_t copies_;  // a bit for each chunk of tokens that is to be stored
};

}  // namespace dualfp::sm90
