// From the planes of a Nested12 weight in the ring to FP16 or BF16 fragments, tiny weights
// included.

#pragma once

#include "dualfp/kernels/cuda/common/nested12_decode.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop/nested_planes.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop/tiny_weights.cuh"

namespace dualfp::sm90 {

template <class T, int kSteps>
class Nested12Planes {
 public:
  // Upper words as NestedPlanes has them. A lower one holds the nibbles of two k16 steps, of rows g
  // and g + 8.
  struct Raw {
    uint32_t upper[T::kBlocks][kSteps / 2][4];
    uint32_t lower[T::kBlocks][kSteps / 2][2];
  };

  __device__ Nested12Planes(const GemmParams& p, const SharedLayout<T>& shared)
      : mask_(p.decode_mask) {
    const int row = MatrixRow<T>();
    const int swizzle = T::kK == 128 ? ((row >> 1) & 3) : ((row >> 2) & 1);
    const int lower = shared.Lower(0) + row * T::kLowerRowBytes;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      upper_[i] = PlaneAddress(shared, i);
    }
#pragma unroll
    for (int i = 0; i < kGranules; ++i) {
      const int chunk = kSteps == 4 ? 2 * i + static_cast<int>(threadIdx.x % 32 >> 4) : i;
      lower_[i] = lower + ((chunk ^ swizzle) << 4);
    }
  }

  __device__ __forceinline__ void Load(Raw& raw, uint32_t stage, int granule) const {
    const uint32_t offset = stage * T::kStageBytes;
#pragma unroll
    for (int b = 0; b < T::kBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < kSteps / 2; ++i) {
        cuda::LoadMatrix4(raw.upper[b][i],
                          upper_[granule * (kSteps / 2) + i] + offset + b * 64 * T::kWRowBytes);
      }
      const uint32_t address = lower_[granule] + offset + b * 64 * T::kLowerRowBytes;
      if constexpr (kSteps == 4) {
        uint32_t words[4];
        cuda::LoadMatrix4(words, address);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          raw.lower[b][i / 2][i % 2] = words[i];
        }
      } else {
        cuda::LoadMatrix2(raw.lower[b][0], address);
      }
    }
  }

  // Nothing to do: past K, upper bytes read as zero and nibbles are stored as those of zero.
  __device__ __forceinline__ static void ZeroPast(Raw&, int) {}

  __device__ __forceinline__ void Decode(const Raw& raw, Fragments<T, kSteps>& a) const {
#pragma unroll
    for (int i = 0; i < kSteps / 2; ++i) {
#pragma unroll
      for (int b = 0; b < T::kBlocks; ++b) {
        DecodeStep<0>(raw.upper[b][i], raw.lower[b][i], a[b][2 * i]);
        DecodeStep<1>(raw.upper[b][i], raw.lower[b][i], a[b][2 * i + 1]);
      }
    }
  }

 private:
  static_assert(kSteps == 2 || kSteps == 4);
  static constexpr int kPairs = T::kK / 32;
  static constexpr int kGranules = T::kK / (16 * kSteps);

  template <int kStep>
  __device__ __forceinline__ void DecodeStep(const uint32_t (&upper)[4], const uint32_t (&lower)[2],
                                             uint32_t (&a)[4]) const {
    constexpr bool kBf16 = T::kFormat == WeightFormat::kNested12Bf16;
    cuda::DecodeNested12<kBf16, kStep>(upper[2 * kStep], lower[0], a[0], a[2], mask_);
    cuda::DecodeNested12<kBf16, kStep>(upper[2 * kStep + 1], lower[1], a[1], a[3], mask_);
  }

  uint32_t mask_;
  uint32_t upper_[kPairs];
  uint32_t lower_[kGranules];
};

}  // namespace dualfp::sm90
