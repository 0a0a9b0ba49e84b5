// Tiles of FP8 and of plain weights by ping-pong: a persistent kernel of two warpgroups in which
// one warpgroup multiplies, which fills the tensor cores, while the other stores the tile it had
// before. 16-bit output.

#pragma once

#include "dualfp/kernels/cuda/sm90/epilogue/store_by_token.cuh"
#include "dualfp/kernels/cuda/sm90/kernels/persistent_kernel.cuh"

namespace dualfp::sm90 {

// Clusters take tiles as in PersistentGemm with whole tiles only; the warpgroups of a CTA take
// those of its cluster alternately. The next one starts when the last products of a tile are under
// way, no earlier: barriers of the ring tell even rounds from odd ones, no more.
template <class T>
__global__ void __launch_bounds__(T::kThreads, 1)
    PingPongGemm(const __grid_constant__ GemmParams p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t dynamic_shared[];
  const SharedLayout<T> shared(dynamic_shared);
  const SlotRequest request = AskForSlot<T>(p.placement);
  const ClusterPlace place(p, cuda::ClusterRank());
  if (threadIdx.x >= T::kConsumers) {
    BecomeLoader<T>();
    RunLoaders<T>(
        p, shared, place, request, [&](auto& loader) { LoadTiles(p, shared, place, loader); },
        [] {});
  } else {
    InitRing(shared, place);
    StartTogether<T>(place);
    AwaitFirstCopies<T>();
    BecomeConsumer<T>();
    Walk<T> walk(p, place);
    walk.Begin(shared.Slot());
    const int clusters = cuda::ClusterCount();
    const int stages = static_cast<int>(p.stages.value);
    const int warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0);
    SharedConsumer<T> consumer(p, shared, place);
    StoreConstants<T> constants(shared.Constants(warpgroup));
    const StoresOf<T> store(p, constants, shared.Staging() + warpgroup * T::kWarpgroupStagingBytes);
    const StoreKind kind = StoreKindOf<T>(p.epilogue);
    const int first_tile = walk.cluster();
    if (warpgroup == 1) {
      consumer.Skip(stages);
    }
    for (int tile = first_tile + warpgroup * clusters; tile < p.whole_tiles; tile += 2 * clusters) {
      const TilePosition position = walk.Position(TileAt(p, tile));
      const int row0 = T::kByToken ? position.token : position.row;
      const int token0 = T::kByToken ? position.row : position.token;
      constants.Fetch(p, row0, token0);
      if (tile != first_tile) {
        AwaitTensorCores<T>(warpgroup);
      }
      consumer.Run(stages, [&] {
        if (tile + clusters < p.whole_tiles) {
          GiveTensorCores<T>(warpgroup ^ 1);
        }
      });
      consumer.Skip(stages);
      store.Take(kind, consumer, row0, token0, {0, T::kTokens});
    }
  }
#endif
}

}  // namespace dualfp::sm90
