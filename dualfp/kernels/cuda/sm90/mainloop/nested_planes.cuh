// From the planes of a nested weight in the ring to FP16 fragments.

#pragma once

#include "dualfp/kernels/cuda/common/matrix.cuh"
#include "dualfp/kernels/cuda/common/nested_decode.cuh"
#include "dualfp/kernels/cuda/sm90/pipeline/ring.cuh"

namespace dualfp::sm90 {

// What a lane holds of kSteps k16 steps of its warp's rows: granules, see NestedConsumer.
template <class T, int kSteps>
using Fragments = uint32_t[T::kBlocks][kSteps][4];

// This lane's row of the CTA's tile as ldmatrix takes it: lanes 0..15 address the warp's sixteen.
template <class T>
__device__ __forceinline__ int MatrixRow() {
  // The shuffle tells the compiler that the value is uniform across the warp.
  const uint32_t warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0);
  return threadIdx.x / 32 % 4 * 16 + (threadIdx.x & 15) + warpgroup * T::kBlocks * 64;
}

// Where this lane's row of the upper plane (all of a 16-bit weight's planes) has columns 32 i and,
// for the upper lanes, 32 i + 16, in stage 0.
template <class T>
__device__ __forceinline__ uint32_t PlaneAddress(const SharedLayout<T>& shared, int i) {
  const int row = MatrixRow<T>();
  const int swizzle = T::kK == 128 ? (row & 7) : ((row >> 1) & 3);
  return shared.ring + row * T::kK + (((2 * i + (threadIdx.x % 32 >> 4)) ^ swizzle) << 4);
}

template <class T, int kSteps>
class NestedPlanes {
 public:
  // As ldmatrix reads them, 32 of K at a time: words 0, 1 are rows g and g + 8 of the first 16
  // bytes and words 2, 3 of the second.
  struct Raw {
    uint32_t upper[T::kBlocks][kSteps / 2][4];
    uint32_t lower[T::kBlocks][kSteps / 2][4];
  };

  __device__ NestedPlanes(const GemmParams& p, const SharedLayout<T>& shared)
      : mask_(p.decode_mask) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      address_[i] = PlaneAddress(shared, i);
    }
  }

  __device__ __forceinline__ void Load(Raw& raw, uint32_t stage, int granule) const {
    const uint32_t offset = stage * T::kStageBytes;
#pragma unroll
    for (int i = 0; i < kSteps / 2; ++i) {
      const uint32_t address = address_[granule * (kSteps / 2) + i] + offset;
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
        cuda::LoadMatrix4(raw.upper[b][i], address + b * 64 * T::kK);
        cuda::LoadMatrix4(raw.lower[b][i], address + b * 64 * T::kK + T::kPlaneBytes);
      }
    }
  }

  // Past K the planes read as zero bytes, which is not the code of zero: make it so.
  __device__ __forceinline__ static void ZeroPast(Raw& raw, int valid_steps) {
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

  __device__ __forceinline__ void Decode(const Raw& raw, Fragments<T, kSteps>& a) const {
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
        const int i = j / 2;
        const int w = 2 * (j % 2);
        cuda::DecodeNested(raw.upper[b][i][w], raw.lower[b][i][w], a[b][j][0], a[b][j][2], mask_);
        cuda::DecodeNested(raw.upper[b][i][w + 1], raw.lower[b][i][w + 1], a[b][j][1], a[b][j][3],
                           mask_);
      }
    }
  }

 private:
  static constexpr int kPairs = T::kK / 32;  // of steps in a stage: one ldmatrix each

  uint32_t mask_;
  uint32_t address_[kPairs];
};

}  // namespace dualfp::sm90
