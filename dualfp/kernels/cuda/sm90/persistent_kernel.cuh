// As many clusters as fit walk over the tiles; loading runs ahead across tiles, and the warpgroups
// of a CTA never wait for each other: one may store while another multiplies. 16-bit output.

#pragma once

#include "dualfp/kernels/cuda/sm90/loader.cuh"
#include "dualfp/kernels/cuda/sm90/partial_sums.cuh"
#include "dualfp/kernels/cuda/sm90/schedule.cuh"
#include "dualfp/kernels/cuda/sm90/store_tile.cuh"

namespace dualfp::sm90 {

// A CTA's barriers must outlive the arrivals that others have on their way to them.
__device__ __forceinline__ void LeaveCluster(const ClusterPlace& place) {
  if (place.shares()) {
    cuda::ClusterSyncRelaxed();
  }
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, T::kCtas)
    PersistentGemm(const __grid_constant__ GemmParams p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t dynamic_shared[];
  const SharedLayout<T> shared(dynamic_shared);
  const ClusterPlace place(p, cuda::ClusterRank());
  const Raster<T> raster(p, place);
  const int all_stages = static_cast<int>(p.stages.value);
  const int last_k = p.k - (all_stages - 1) * T::kK;

  InitRing(p, shared, place);
  LaunchDependents<T>(p.seats);
  const int cluster = PlaceInWalk(p, shared);
  const int clusters = cuda::ClusterCount();

  if (threadIdx.x >= T::kConsumers) {
    BecomeLoader<T>();
    ForEachOperand<T>(p, [&](auto operand) {
      constexpr auto kOperand = decltype(operand)::value;
      RingIndex index;
      Schedule schedule(p, cluster, clusters);
      Work work;
      while (schedule.Next(work)) {
        const TilePosition position = raster.At(work.tile);
        const int first = kOperand == Loader<T>::Operand::kX ? position.token : position.row;
        Loader<T>::template Run<kOperand>(p, shared, place, index, first, work.begin * T::kK,
                                          work.end - work.begin);
      }
    });
    __syncwarp();
    LeaveCluster(place);
  } else {
    BecomeConsumer<T>();
    cuda::GridWaitForPrevious();
    ConsumerOf<T> consumer(p, shared, place);
    const PartialSums<T> partials(p, LoadLaunchNumber(shared.Seat()));
    const int warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0);
    const int row_offset = warpgroup * T::kBlocks * 64;
    const StoreKind kind = StoreKindOf<T>(p.epilogue);
    const int cta = cluster * p.cluster.size() + cuda::ClusterRank();  // whose slot sums go to
    StoreConstants<T> constants(shared.Constants(warpgroup));
    const uint32_t staging = shared.Staging() + warpgroup * T::kWarpgroupStagingBytes;
    const TileStores<T> store(p, constants, staging);
    Schedule schedule(p, cluster, clusters);
    Work work;
    while (schedule.Next(work)) {
      const TilePosition position = raster.At(work.tile);
      const int row0 = position.row + row_offset;
      constants.Fetch(p, row0, position.token);
      RunTile<T>(consumer, p, work.begin, work.end - work.begin,
                 work.end == all_stages ? last_k : T::kK, position.row, position.token);
      TokenRange range{0, T::kTokens};
      if constexpr (PartialSums<T>::kFits) {
        const int parts = static_cast<int>(p.parts.value);
        const int part = parts > 1 ? cluster - work.tile * parts : 0;
        if (parts > 1) {
          range = PartialSums<T>::Own(part, p.parts);  // every part finishes some tokens
        }
        const bool finishes = parts > 1 || work.end == all_stages;
        if (parts > 1 || !finishes) {
          partials.Give(cta, consumer, finishes ? range : TokenRange{0, 0});
        }
        if (!finishes) {
          continue;  // the last part finishes the tile
        }
        if (parts > 1 || work.begin > 0) {
          const int tile_begin = (work.tile - p.whole_tiles) * all_stages;
          int from = cluster;
          do {
            --from;
            partials.Take(consumer, range, parts > 1 ? parts - 1 : 1, [&](int i) {
              const int other = parts > 1 ? (i < part ? i : i + 1) - part : from - cluster;
              return cta + other * p.cluster.size();
            });
          } while (parts == 1 && Schedule::ShareBegin(p, from) > tile_begin);
        }
      }
      store.Take(kind, consumer, row0, position.token, range);
    }
    LeaveCluster(place);
  }
#endif
}

}  // namespace dualfp::sm90
