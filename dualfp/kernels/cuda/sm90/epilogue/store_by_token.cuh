// Accumulators of tiles by token (Tile::kByToken) on their way to Y.

#pragma once

#include "dualfp/kernels/cuda/sm90/epilogue/store_tile.cuh"

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

  // All threads of a warpgroup, which wait for no other. `range`: of the weights, here.
  __device__ __forceinline__ void Take(StoreKind kind, const ConsumerOf<T>& consumer, int row0,
                                       int token0, TokenRange range) const {
    WarpgroupSync();  // the previous tile's constants have been read
    constants_.Publish(p_.epilogue.alpha);
    WarpgroupSync();
    if (kind == StoreKind::kPlainF16) {
      Store<false>(consumer, row0, token0, range, OutputType::kF16);
    } else if (kind == StoreKind::kPlainBf16) {
      Store<false>(consumer, row0, token0, range, OutputType::kBf16);
    } else if (kind == StoreKind::kScaled) {
      Store<true>(consumer, row0, token0, range, p_.epilogue.y_type);
    } else if constexpr (T::kFinishes) {
      StoreFinished(consumer, row0, token0, range);
    }
  }

 private:
  static constexpr int kWarpBytes = kTokenStagingBytes / 4;
  static constexpr int kOctets = T::kTokens / 8;
  static_assert(kTokenStagingBytes <= T::kWarpgroupStagingBytes);

  // Of the eight octets from this one on: ranges end between chunks of 32 weights.
  __device__ static bool HoldsAny(TokenRange range, int octet) {
    return range.Holds(octet * 8) || range.Holds(octet * 8 + 32);
  }

  // Of this lane's two tokens, eight apart.
  struct TokenScales {
    float of[2];

    __device__ TokenScales(const StoreConstants<T>& constants, int block) {
      const uint32_t first =
          constants.token_scale + 4 * (block * 64 + FirstToken() + threadIdx.x % 32 / 4);
      of[0] = LoadShared(first);
      of[1] = LoadShared(first + 4 * 8);
    }
  };

  __device__ static int FirstToken() { return threadIdx.x % 128 / 32 * 16; }  // of this warp

  // 16-byte parts of a token, an octet of weights each, change places by token in staging memory,
  // so that no bank is hit twice.
  __device__ static uint32_t Part(int token, int octet) {
    return token * 128 + ((octet ^ token % 8) << 4);
  }

  template <bool kScaled>
  __device__ __forceinline__ void Store(const ConsumerOf<T>& consumer, int row0, int token0,
                                        TokenRange range, OutputType type) const {
    const Epilogue& e = p_.epilogue;
    const int lane = threadIdx.x % 32;
    const int first = FirstToken();
    const uint32_t write = staging_ + lane % 16 * 128;
    const uint32_t read = staging_ + lane / 8 * 128;
    const int part = lane % 8;  // of 8 weights, which this lane stores of every fourth token
#pragma unroll
    for (int block = 0; block < T::kBlocks; ++block) {
      const TokenScales scales(constants_, block);
      const int token = token0 + block * 64 + first + lane / 8;
      uint8_t* y = static_cast<uint8_t*>(e.y) + (token * e.y_stride + row0 + part * 8) * int64_t{2};
#pragma unroll
      for (int chunk = 0; chunk < kOctets; chunk += 8) {
        if (!HoldsAny(range, chunk)) {
          continue;
        }
        __syncwarp();
#pragma unroll
        for (int i = chunk; i < chunk + 8 && i < kOctets; i += 2) {
          const uint32_t target = write + (((i - chunk + lane / 16) ^ lane % 8) << 4);
          uint32_t packed[4];
          Pack<kScaled>(consumer.acc[block] + 4 * i, scales, i, type, packed);
          if (i + 1 < kOctets) {
            Pack<kScaled>(consumer.acc[block] + 4 * (i + 1), scales, i + 1, type, packed + 2);
            cuda::StoreMatrix4(target, packed[0], packed[1], packed[2], packed[3]);
          } else {
            // The addresses of lanes 16..31 do not matter.
            cuda::StoreMatrix2(target, packed[0], packed[1]);
          }
        }
        __syncwarp();
        const bool in_tile = range.Holds((chunk + part) * 8) && row0 + (chunk + part) * 8 < p_.n;
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

  // Of this lane: two tokens of weights 8 * octet + lane % 4 * 2 and the next.
  template <bool kScaled>
  __device__ __forceinline__ void Pack(const float* d, const TokenScales& scales, int octet,
                                       OutputType type, uint32_t* packed) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float2 v = Scale<kScaled>(d + 2 * h, scales.of[h], octet);
      packed[h] = sm90::Pack(v.x, v.y, type);
    }
  }

  template <bool kScaled>
  __device__ __forceinline__ float2 Scale(const float* d, float token_scale, int octet) const {
    if constexpr (kScaled) {
      const uint32_t offset = 4 * (octet * 8 + threadIdx.x % 4 * 2);
      const float2 scale = LoadShared2(constants_.row_scale + offset);
      const float2 bias = LoadShared2(constants_.row_bias + offset);
      return {d[0] * (token_scale * scale.x) + bias.x, d[1] * (token_scale * scale.y) + bias.y};
    } else {
      return {d[0] * token_scale, d[1] * token_scale};
    }
  }

  // With activation or residual; SiLU·mul leaves half an octet of each.
  __device__ __forceinline__ void StoreFinished(const ConsumerOf<T>& consumer, int row0, int token0,
                                                TokenRange range) const {
    const Epilogue& e = p_.epilogue;
    const int lane = threadIdx.x % 32;
    const int halves = e.silu_mul ? 1 : 0;
#pragma unroll
    for (int block = 0; block < T::kBlocks; ++block) {
      const TokenScales scales(constants_, block);
      const int first = token0 + block * 64 + FirstToken();
#pragma unroll
      for (int chunk = 0; chunk < kOctets; chunk += 8) {
        if (!HoldsAny(range, chunk)) {
          continue;
        }
        __syncwarp();
#pragma unroll
        for (int i = chunk; i < chunk + 8 && i < kOctets; ++i) {
          const int row = row0 + i * 8 + lane % 4 * 2;
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int token = lane / 4 + 8 * h;
            const float2 v = Scale<true>(consumer.acc[block] + 4 * i + 2 * h, scales.of[h], i);
            Finish(v, first + token, row, staging_ + Part(token, i - chunk));
          }
        }
        __syncwarp();
        const int octet = lane % 8;
        const int row = row0 + (chunk + octet) * 8;
        const bool in_tile = range.Holds((chunk + octet) * 8) && row < p_.n;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int token = i * 4 + lane / 8;
          const float4 bits = LoadShared4(staging_ + Part(token, octet));
          if (in_tile && first + token < p_.m) {
            uint8_t* y =
                static_cast<uint8_t*>(e.y) + ((first + token) * e.y_stride + (row >> halves)) * 2;
            if (e.silu_mul) {
              *reinterpret_cast<float2*>(y) = make_float2(bits.x, bits.y);
            } else {
              *reinterpret_cast<float4*>(y) = bits;
            }
          }
        }
      }
    }
  }

  // Weights row and row + 1 of a token, to its part of staging memory.
  __device__ __forceinline__ void Finish(float2 v, int token, int row, uint32_t part) const {
    const Epilogue& e = p_.epilogue;
    const bool exists = e.residual != nullptr && token < p_.m && row < p_.n;
    const uint16_t* residual = static_cast<const uint16_t*>(e.residual) +
                               token * e.residual_stride + (e.silu_mul ? row / 2 : row);
    if (e.silu_mul) {
      float y = Silu(v.x) * v.y;
      y += exists ? Unpack(*residual, e.y_type).x : 0.0f;
      asm volatile("st.shared.b16 [%0], %1;" ::"r"(part + threadIdx.x % 4 * 2),
                   "h"(static_cast<uint16_t>(sm90::Pack(y, 0.0f, e.y_type)))
                   : "memory");
      return;
    }
    if (exists) {
      const float2 r = Unpack(*reinterpret_cast<const uint32_t*>(residual), e.y_type);
      v = {v.x + r.x, v.y + r.y};
    }
    StoreShared(part + threadIdx.x % 4 * 4, __uint_as_float(sm90::Pack(v.x, v.y, e.y_type)));
  }

  const GemmParams& p_;
  StoreConstants<T>& constants_;
  uint32_t staging_;  // of this warp
};

template <class T>
using StoresOf = std::conditional_t<T::kByToken, TokenStores<T>, TileStores<T>>;

}  // namespace dualfp::sm90
