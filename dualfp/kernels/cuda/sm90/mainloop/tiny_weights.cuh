// Weights that Nested12 planes only round, put into their fragments exactly.

#pragma once

#include <cuda_fp16.h>

#include "dualfp/kernels/cuda/sm90/pipeline/tile.cuh"

namespace dualfp::sm90 {

// Of the list of a block of 64 rows what lies in the sixteen that a warp holds, from which granules
// (kSteps k16 steps, see NestedConsumer) take what is theirs. Each lane keeps a place of the batch
// at hand, so that a granule without tiny weights, as nearly all are, costs one comparison.
template <class T, int kSteps>
class TinyWeights {
 public:
  // Asks for the first batch; `row`: the block's first.
  __device__ __forceinline__ void Fetch(const GemmParams& p, int row) {
    batches_ = reinterpret_cast<const uint2*>(p.tiny);
    own_ = make_uint2(cuda::kNoTinyWeight, 0);
    if (batches_ != nullptr && row < p.n) {
      Load(row / cuda::kTinyRows);
    }
  }

  // Before the first of `granules` granules, which begin at column `k`.
  __device__ __forceinline__ void Begin(int k, int granules) {
    end_ = k / kGranuleK + granules;
    begin_ = static_cast<uint32_t>(k);
    Choose();
    FindNext();
  }

  // Whether the granule after which `left - 1` are left has any. Alike in all lanes.
  __device__ __forceinline__ bool Due(int left) const { return next_ == left; }

  // Puts them into the granule's fragments.
  __device__ __forceinline__ void Patch(int left, uint32_t (&a)[kSteps][4]) {
    const uint32_t lane = threadIdx.x % 32;
    do {
      const int source = __ffs(left_) - 1;
      const uint32_t k = __shfl_sync(0xFFFFFFFFu, own_.x, source);
      const uint32_t row_lack = __shfl_sync(0xFFFFFFFFu, own_.y, source);
      const uint32_t row = row_lack % 16;
      const uint32_t column = k % 16;
      // Where wgmma wants it, see wgmma.cuh.
      const bool own = lane == row % 8 * 4 + column % 8 / 2;
      const uint32_t at = k / 16 % kSteps * 4 + row / 8 + column / 8 * 2;
      const uint32_t lack = Lack(row_lack >> 16) << (column % 2 * 16);
#pragma unroll
      for (uint32_t i = 0; i < 4 * kSteps; ++i) {
        if (own && at == i) {
          a[i / 4][i % 4] = Add(a[i / 4][i % 4], lack);
        }
      }
      left_ &= left_ - 1;
      FindNext();
    } while (Due(left));
  }

 private:
  static constexpr int kGranuleK = 16 * kSteps;
  static_assert(cuda::kTinyBatch == 32);

  __device__ __forceinline__ void Load(int batch) {
    own_ = __ldg(batches_ + batch * cuda::kTinyBatch + threadIdx.x % 32);
  }

  // The places of the batch that are this warp's and lie in its columns.
  __device__ __forceinline__ void Choose() {
    const uint32_t lane = threadIdx.x % 32;
    left_ = __ballot_sync(0xFFFFFFFFu, lane < cuda::kTinyBatch - 1 && own_.x >= begin_ &&
                                           own_.x != cuda::kNoTinyWeight &&
                                           (own_.y & 0xFFFF) / 16 == threadIdx.x / 32 % 4);
  }

  __device__ __forceinline__ void FindNext() {
    uint32_t link = 0;
    while (left_ == 0 && link != cuda::kNoTinyWeight) {
      link = __shfl_sync(0xFFFFFFFFu, own_.x, cuda::kTinyBatch - 1);
      if (link != cuda::kNoTinyWeight) {
        Load(static_cast<int>(link));
        Choose();
      }
    }
    next_ = 0;
    if (left_ != 0) {
      const uint32_t k = __shfl_sync(0xFFFFFFFFu, own_.x, __ffs(left_) - 1);
      next_ = end_ - static_cast<int>(k / kGranuleK);
    }
  }

  // Of the type of fragments. FP16's have units of 2^-24 there.
  __device__ __forceinline__ static uint32_t Lack(uint32_t bf16) {
    if constexpr (T::kFormat == WeightFormat::kNested12F16) {
      return __half_as_ushort(__float2half_rn(__uint_as_float(bf16 << 16)));
    } else {
      return bf16;
    }
  }
  __device__ __forceinline__ static uint32_t Add(uint32_t a, uint32_t b) {
    uint32_t sum;
    if constexpr (T::kFormat == WeightFormat::kNested12F16) {
      asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
    } else {
      asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
    }
    return sum;
  }

  const uint2* batches_;
  uint2 own_;       // a TinyWeight
  int end_;         // granules from K = 0 to the end of the work
  uint32_t begin_;  // column
  uint32_t left_;   // places of the batch, a bit each, that are still to come
  int next_;        // granules left where it is due; none: below 1
};

}  // namespace dualfp::sm90
