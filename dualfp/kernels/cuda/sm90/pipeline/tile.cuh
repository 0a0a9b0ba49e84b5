// Tile configurations and the shared-memory ring of the Hopper GEMM kernels.

#pragma once

#include <cstdint>

#include "dualfp/kernels/cuda/common/mbarrier.cuh"
#include "dualfp/kernels/cuda/sm90/gemm_params.h"
#include "dualfp/kernels/cuda/sm90/tile_format.h"
#include "dualfp/numeric/host_device.h"

namespace dualfp::sm90 {

constexpr int kSharedBytesPerSm = 233472;   // 228 KiB, of which each CTA costs 1 KiB more
constexpr int kSharedBytesPerCta = 232448;  // 227 KiB
constexpr int kMostStages = 24;

// Tokens that a warpgroup of a persistent kernel stores at a time, a divisor of the tile's; it has
// two buffers for them, of 128 bytes a token.
DUALFP_HOST_DEVICE constexpr int StoreChunkTokens(int tokens) {
  return tokens % 32 == 0 ? 32 : tokens % 24 == 0 ? 24 : tokens % 16 == 0 ? 16 : 8;
}
DUALFP_HOST_DEVICE constexpr int StagingBytes(int tokens) {
  return 2 * StoreChunkTokens(tokens) * 128;
}

// Bytes between the rows of TinySums, free of bank conflicts.
DUALFP_HOST_DEVICE constexpr int SumsStride(int tokens) {
  return 2 * tokens + (tokens % 16 == 0 ? 16 : 0);
}

// Whether there is room for those of a tile of `blocks` times 64 rows.
constexpr bool HasSums(WeightFormat format, int blocks, int tokens) {
  return IsNested12(format) && blocks * 64 * SumsStride(tokens) <= 36 * 1024;
}

// How the warpgroups of a CTA share tiles.
enum class Sharing {
  kTogether,  // each computes kBlocks * 64 of a tile's rows
  // Ping-pong, a tile each: one multiplies alone, which fills the tensor cores, while the other
  // stores.
  kPingPong,
  // Both with the tokens on the 64-row side of wgmma and the weights on its column side, so that
  // tiles have any multiple of 8 weights. What is said here of weight rows, and named so, then
  // holds for tokens and the other way round.
  kTogetherByToken,
  kPingPongByToken,
};

// kWarpgroups * kBlocks * 64 weight rows (ping-pong: kBlocks * 64) by kTokens tokens by kK elements
// of K a stage, for kCtas CTAs to an SM. Beside the ring lie kStagingBytes; 0 = all that is left.
template <WeightFormat kFormatValue, int kWarpgroupsValue, int kBlocksValue, int kTokensValue,
          int kKValue, int kCtasValue, int kStagingBytesValue,
          Sharing kSharing = Sharing::kTogether>
struct Tile {
  static constexpr WeightFormat kFormat = kFormatValue;
  static constexpr int kWarpgroups = kWarpgroupsValue;
  static constexpr int kBlocks = kBlocksValue;
  static constexpr int kTokens = kTokensValue;
  static constexpr int kK = kKValue;
  static constexpr int kCtas = kCtasValue;

  static constexpr bool kDecoded = IsDecoded(kFormat);
  static constexpr bool kNested12 = IsNested12(kFormat);
  static constexpr bool kPromoted = kFormat == WeightFormat::kE4m3Promoted;
  static constexpr bool kPlain = IsPlain(kFormat);
  // Both operands are E4M3, and values of Y always want their token's scale.
  static constexpr bool kFp8 = IsE4m3(kFormat);
  static constexpr bool kPingPong =
      kSharing == Sharing::kPingPong || kSharing == Sharing::kPingPongByToken;
  static constexpr bool kByToken =
      kSharing == Sharing::kTogetherByToken || kSharing == Sharing::kPingPongByToken;
  static constexpr int kSharers = kPingPong ? 1 : kWarpgroups;  // warpgroups that compute a tile
  static constexpr int kRows = 64 * kSharers * kBlocks;
  static constexpr int kConsumers = 128 * kWarpgroups;
  static constexpr int kThreads = kConsumers + 128;  // the last warpgroup loads

  // Registers of a thread at entry: what the compiler may give one when kCtas CTAs of warpgroups
  // share an SM's 65536, in steps of 8.
  static constexpr int kEntryRegisters = 65536 / kCtas / kThreads / 8 * 8;
  // After the roles part, setmaxnreg moves registers inside that allocation from the loader to the
  // consumers; asking for one more than it holds would wait for ever. 0: leave them.
  static constexpr bool kMoveRegisters = kEntryRegisters < 256;
  static constexpr int kLoaderRegisters =
      !kMoveRegisters               ? 0
      : kNested12 && kTokens <= 128 ? (kCtas == 1 || (kCtas == 2 && kWarpgroups == 1) ? 56 : 40)
      : kWarpgroups == 3            ? 32
                                    : 24;
  static constexpr int kConsumerRegisters =
      kMoveRegisters
          ? (kEntryRegisters * (kWarpgroups + 1) - kLoaderRegisters) / kWarpgroups / 8 * 8
          : 0;
  static_assert(kWarpgroups * kConsumerRegisters + kLoaderRegisters <=
                (kWarpgroups + 1) * kEntryRegisters);

  static constexpr int kWRowBytes = kPlain ? 2 * kK : kK;         // of the upper plane,
  static constexpr int kLowerRowBytes = kNested12 ? kK / 2 : kK;  // and of the lower
  static constexpr int kPlaneBytes = kRows * kWRowBytes;
  static constexpr int kWeightBytes = kDecoded ? kPlaneBytes + kRows * kLowerRowBytes : kPlaneBytes;
  static constexpr int kXRowBytes = kFp8 ? kK : 2 * kK;
  static constexpr int kXBytes = kTokens * kXRowBytes;
  static constexpr int kXBoxes = kXRowBytes / 128;  // boxes are 128 bytes wide: the swizzle
  static constexpr int kXBoxElements = kFp8 ? 128 : 64;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;

  // Whether weights and X have full and empty barriers of their own. Consumers read nested weights
  // well before they multiply by X and have done with them earlier, so that the ring holds more
  // that is on its way: half as much again. But waiting twice takes time that narrow tiles do not
  // have between their multiplications, and deep rings have enough on its way.
  static constexpr bool kSeparate =
      kDecoded && (kTokens >= (kWarpgroups == 3 ? 128 : 192) ||
                   (kTokens >= 96 && kWarpgroups == 2 && (kK == 128 || kBlocks == 2)));
  static constexpr int kStageBarriers = kSeparate ? 4 : 2;

  static constexpr int kAccumulators = kBlocks * kTokens / 2;  // registers of a thread

  static constexpr int kBarrierBytes = 8 * kStageBarriers * kMostStages + 56;

  // Nested12: what planes lack is summed beside the products by a warp that has nothing else to do
  // (TinySums), where there is room for the sums: where tiles are staged on their way to Y, in the
  // same memory. Wider tiles put it into their fragments, which costs them a branch for each.
  static constexpr int kWarpgroupStagingBytes = kStagingBytesValue / kWarpgroups;
  static constexpr int kBlockSumsBytes = 64 * SumsStride(kTokens);
  static constexpr bool kSums = HasSums(kFormat, kSharers* kBlocks, kTokens);
  static constexpr bool kPatches = kNested12 && !kSums;
  static constexpr bool kStagedSums = kSums && kStagingBytesValue > 0;
  static constexpr int kWarpgroupSumsBytes =
      kStagedSums ? kWarpgroupStagingBytes : kBlocks * kBlockSumsBytes;
  static constexpr int kSumsBytes =
      kSums && !kStagedSums ? kWarpgroups * kWarpgroupSumsBytes + 16 : 0;

  // Whether CTAs can share tiles of this size: for others ptxas serializes wgmma.
  static constexpr bool kShareable = kCtas == 1 && !kPingPong && kTokens % 32 == 0 &&
                                     kTokens >= 64 && kRows * kTokens <= kMostPartialSums;

  // Promoted sums: whether there are registers for the products of two stages, so that those of one
  // multiply while the others are added.
  static constexpr bool kTwoStages =
      kPromoted && kByToken && kTokens <= (kWarpgroups == 3 ? 64 : 128);

  // There are registers for activations and residuals beside the accumulators, so that no kernel
  // spills for them.
  static constexpr bool kFinishes = kDecoded    ? kBlocks == 1 && kWarpgroups <= 2
                                    : kPromoted ? kTokens < 128 || kCtas == 1
                                                : kAccumulators <= (kByToken ? 120 : 160);

  // Scales and bias of a tile, see TileConstants: token scales for each warpgroup.
  static constexpr int kConstantBytes =
      4 * kWarpgroups * (kByToken ? 64 * kBlocks + 2 * kTokens : kTokens + 2 * 64 * kBlocks);
  static constexpr int kBudget =
      (kCtas == 1 ? kSharedBytesPerCta : kSharedBytesPerSm / kCtas - 1024) - 1024 - kBarrierBytes -
      kConstantBytes - kStagingBytesValue - kSumsBytes;
  static constexpr int kMaxStages = kBudget / kStageBytes;
  static constexpr int kStages = kMaxStages > kMostStages ? kMostStages : kMaxStages;
  // Whether consumers know at compile time where in the ring they are, which leaves the integer
  // units to decoding: where these bound the loop and the ring is short. A tile then takes whole
  // rounds of the ring.
  static constexpr bool kUnrolled =
      kDecoded && kTokens >= 48 && kTokens <= 160 && kStages * kK <= 12 * 64;
  static constexpr int kRingBytes = kStages * kStageBytes;
  static constexpr int kRegionBytes =  // ring and staging
      (kStagingBytesValue == 0 ? kBudget : kRingBytes + kStagingBytesValue) / 128 * 128;
  // Alignment slack, region, constants, barriers.
  static constexpr int kSharedBytes =
      1024 + kRegionBytes + kConstantBytes + kBarrierBytes + kSumsBytes;

  static_assert(kStages >= 2);
  static_assert(kBlocks * kBlockSumsBytes <= kWarpgroupSumsBytes || !kSums);
  static_assert(kK == 64 || kK == 128);
  static_assert(kDecoded || kWRowBytes == 128);
  static_assert(kTokens % 8 == 0 && kTokens <= 256);
  static_assert(kRows <= 256);
  static_assert(!kPingPong || (!kDecoded && !kPromoted && kWarpgroups == 2));
  static_assert(kCtas == 1 || (kCtas == 2 && kWarpgroups <= 2) || kWarpgroups == 1);
  static_assert(kWeightBytes % 1024 == 0);  // X begins where the swizzle does
};

__host__ __device__ constexpr int CeilDiv(int a, int b) { return (a + b - 1) / b; }

// All threads of a warpgroup.
__device__ __forceinline__ void WarpgroupSync() {
  cuda::NamedBarrierSync(1 + static_cast<int>(threadIdx.x / 128), 128);
}

// Named barrier of all consumers: after those of the warpgroups.
template <class T>
constexpr int kWholeBarrier = 1 + T::kWarpgroups;

// Then those by which ping-pong warpgroups hand the tensor cores over.
template <class T>
__device__ __forceinline__ void AwaitTensorCores(int warpgroup) {
  cuda::NamedBarrierSync(kWholeBarrier<T> + 1 + warpgroup, T::kConsumers);
}
template <class T>
__device__ __forceinline__ void GiveTensorCores(int warpgroup) {
  cuda::NamedBarrierArrive(kWholeBarrier<T> + 1 + warpgroup, T::kConsumers);
}

// A position in the ring: the stage and how often the ring has wrapped.
struct RingIndex {
  uint32_t stage = 0;
  uint32_t phase = 0;

  template <int kStages>
  __device__ __forceinline__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// Addresses inside a CTA's shared memory.
template <class T>
struct SharedLayout {
  uint32_t ring;

  __device__ explicit SharedLayout(const void* dynamic_shared)
      // The shuffle keeps the compiler from computing the address again at every use.
      : ring(__shfl_sync(0xFFFFFFFFu, (cuda::SharedAddress(dynamic_shared) + 1023) & ~1023u, 0)) {}

  __device__ uint32_t Weights(uint32_t stage) const { return ring + stage * T::kStageBytes; }
  __device__ uint32_t Lower(uint32_t stage) const { return Weights(stage) + T::kPlaneBytes; }
  __device__ uint32_t X(uint32_t stage) const { return Weights(stage) + T::kWeightBytes; }
  __device__ uint32_t Staging() const { return ring + T::kRingBytes; }
  __device__ uint32_t Constants(int warpgroup) const {
    return ring + T::kRegionBytes + warpgroup * (T::kConstantBytes / T::kWarpgroups);
  }
  __device__ uint32_t Full(uint32_t stage) const {
    return ring + T::kRegionBytes + T::kConstantBytes + 8 * stage;
  }
  __device__ uint32_t Empty(uint32_t stage) const { return Full(stage) + 8 * T::kStages; }
  // Those of X: the same, unless it has its own.
  static constexpr uint32_t kXBarriers = T::kSeparate ? 16 * T::kStages : 0;
  __device__ uint32_t FullX(uint32_t stage) const { return Full(stage) + kXBarriers; }
  __device__ uint32_t EmptyX(uint32_t stage) const { return Empty(stage) + kXBarriers; }
  // For sums of the cluster's other CTAs.
  __device__ uint32_t SumBarrier() const { return Full(T::kStageBarriers * T::kStages); }
  // The CTA's slot in the walk and the number of the launch.
  __device__ uint32_t Slot() const { return SumBarrier() + 8; }
  // Of what the tile's planes lack: full when it is there, empty when consumers have it.
  __device__ uint32_t SumsFull() const { return Slot() + 8; }
  __device__ uint32_t SumsEmpty() const { return Slot() + 16; }
  // The sums of a block of 64 rows.
  __device__ uint32_t Sums(int block) const {
    const uint32_t begin =
        T::kStagedSums
            ? Staging()
            : (ring + T::kRegionBytes + T::kConstantBytes + T::kBarrierBytes + 15) & ~15u;
    return begin + block / T::kBlocks * T::kWarpgroupSumsBytes +
           block % T::kBlocks * T::kBlockSumsBytes;
  }
};

}  // namespace dualfp::sm90
