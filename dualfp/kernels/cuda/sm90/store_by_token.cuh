// Accumulators of tiles by token (Sharing::kTurnsByToken) on their way to Y.

#pragma once

#include "dualfp/kernels/cuda/sm90/store_tile.cuh"

namespace dualfp::sm90 {

constexpr int kTokenStagingBytes = 4 * 16 * 128;  // of a warpgroup, for each warp 16 tokens by 64

// A warpgroup's tile of 64 * kBlocks tokens by kTokens weights. A lane holds pairs of neighbouring
// values of Y. Each warp turns 16 tokens by 64 of them at a time around in staging memory of its
// own, from where it stores whole 128-byte lines of Y.
template <class T>
class TokenStores {
 public:
  __device__ TokenStores(const GemmParams& p, StoreConstants<T>& constants, uint32_t staging)
      : p_(p), constants_(constants), staging_(staging + threadIdx.x % 128 / 32 * kWarpBytes) {}

  // All threads of a warpgroup, which wait for no other.
  __device__ __forceinline__ void Take(StoreKind kind, const Consumer<T>& consumer, int row0,
                                       int token0) const {
    WarpgroupSync();  // the previous tile's constants have been read
    constants_.Publish(p_.epilogue.alpha);
    WarpgroupSync();
    if (kind == StoreKind::kPlainF16) {
      Store<false>(consumer, row0, token0, OutputType::kF16);
    } else if (kind == StoreKind::kPlainBf16) {
      Store<false>(consumer, row0, token0, OutputType::kBf16);
    } else {
      Store<true>(consumer, row0, token0, p_.epilogue.y_type);
    }
  }

 private:
  static constexpr int kWarpBytes = kTokenStagingBytes / 4;
  static constexpr int kOctets = T::kTokens / 8;
  static_assert(kTokenStagingBytes <= T::kWarpgroupStagingBytes);

  template <bool kScaled>
  __device__ __forceinline__ void Store(const Consumer<T>& consumer, int row0, int token0,
                                        OutputType type) const {
    const Epilogue& e = p_.epilogue;
    const int lane = threadIdx.x % 32;
    const int first = threadIdx.x % 128 / 32 * 16;  // token of this warp in a block
    // 16-byte parts of a token change places by token, so that no bank is hit twice.
    const uint32_t write = staging_ + lane % 16 * 128;
    const uint32_t read = staging_ + lane / 8 * 128;
    const int part = lane % 8;  // of 8 weights, which this lane stores of every fourth token
#pragma unroll
    for (int block = 0; block < T::kBlocks; ++block) {
      const uint32_t scales = constants_.token_scale + 4 * (block * 64 + first + lane / 4);
      const float token_scale[2] = {LoadShared(scales), LoadShared(scales + 4 * 8)};
      const int token = token0 + block * 64 + first + lane / 8;
      uint8_t* y =
          static_cast<uint8_t*>(e.y) + (token * e.y_stride + row0 + part * 8) * int64_t{2};
#pragma unroll
      for (int chunk = 0; chunk < kOctets; chunk += 8) {
        __syncwarp();
#pragma unroll
        for (int i = chunk; i < chunk + 8 && i < kOctets; i += 2) {
          const uint32_t target = write + (((i - chunk + lane / 16) ^ lane % 8) << 4);
          uint32_t packed[4];
          Pack<kScaled>(consumer.acc[block] + 4 * i, token_scale, i, type, packed);
          if (i + 1 < kOctets) {
            Pack<kScaled>(consumer.acc[block] + 4 * (i + 1), token_scale, i + 1, type, packed + 2);
            cuda::StoreMatrix4(target, packed[0], packed[1], packed[2], packed[3]);
          } else {
            // The addresses of lanes 16..31 do not matter.
            cuda::StoreMatrix2(target, packed[0], packed[1]);
          }
        }
        __syncwarp();
        const bool in_tile = chunk + part < kOctets && row0 + (chunk + part) * 8 < p_.n;
        float4 bits[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          bits[i] = LoadShared4(read + i * 4 * 128 + ((part ^ lane / 8 ^ i % 2 * 4) << 4));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          StoreGlobalIf(in_tile && token + i * 4 < p_.m, y + i * 4 * e.y_stride * 2 + chunk * 16,
                        bits[i]);
        }
      }
    }
  }

  // The two tokens of this lane, of weights 8 * octet + lane % 4 * 2 and the next.
  template <bool kScaled>
  __device__ __forceinline__ void Pack(const float* d, const float (&token_scale)[2], int octet,
                                       OutputType type, uint32_t* packed) const {
    float2 scale = {1.0f, 1.0f};
    float2 bias = {0.0f, 0.0f};
    if constexpr (kScaled) {
      const uint32_t offset = 4 * (octet * 8 + threadIdx.x % 4 * 2);
      scale = LoadShared2(constants_.row_scale + offset);
      bias = LoadShared2(constants_.row_bias + offset);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float t = token_scale[h];
      packed[h] = kScaled ? sm90::Pack(d[2 * h] * (t * scale.x) + bias.x,
                                       d[2 * h + 1] * (t * scale.y) + bias.y, type)
                          : sm90::Pack(d[2 * h] * t, d[2 * h + 1] * t, type);
    }
  }

  const GemmParams& p_;
  StoreConstants<T>& constants_;
  uint32_t staging_;  // of this warp
};

}  // namespace dualfp::sm90
