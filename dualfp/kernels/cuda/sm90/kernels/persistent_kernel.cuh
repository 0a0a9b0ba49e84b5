// As many clusters as fit walk over the tiles; loading runs ahead across tiles, and the warpgroups
// of a CTA never wait for each other: one may store while another multiplies. 16-bit output.

#pragma once

#include "dualfp/kernels/cuda/sm90/epilogue/partial_sums.cuh"
#include "dualfp/kernels/cuda/sm90/epilogue/store_by_token.cuh"
#include "dualfp/kernels/cuda/sm90/epilogue/store_tile.cuh"
#include "dualfp/kernels/cuda/sm90/pipeline/loader.cuh"
#include "dualfp/kernels/cuda/sm90/pipeline/walk.cuh"

namespace dualfp::sm90 {

template <class T>
__device__ __forceinline__ void LoadTiles(const GemmParams& p, const SharedLayout<T>& shared,
                                          const ClusterPlace& place, Loader<T>& loader) {
  Walk<T> walk(p, place);
  const auto first = [&](const TilePosition& position) {
    return loader.is_x() ? position.token : position.row;
  };
  Rehearsed(p, [&](bool really) {
    if (really) {
      StartTogether<T>(place);
    }
    walk.Begin(really ? shared.Slot() : 0);
    loader.Begin(first(walk.position()), walk.work().begin * T::kK, walk.any(), really);
  });
  walk.ForEach([&](const Work& work, const TilePosition& position, bool begun) {
    loader.Run(first(position), work.begin * T::kK, work.end - work.begin, begun);
  });
  loader.AwaitRelease(place);
}

// See TinySums.
template <class T>
__device__ __forceinline__ void SumTiles(const GemmParams& p, const SharedLayout<T>& shared,
                                         const ClusterPlace& place) {
  if constexpr (T::kSums) {
    if (p.tiny != nullptr) {
      Walk<T> walk(p, place);
      walk.Begin(shared.Slot());
      TinySums<T> sums(p, shared);
      walk.ForEach([&](const Work& work, const TilePosition& position, bool) {
        sums.Sum(position.row, position.token, work.begin, work.end);
      });
    }
  }
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, T::kCtas)
    PersistentGemm(const __grid_constant__ GemmParams p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t dynamic_shared[];
  const SharedLayout<T> shared(dynamic_shared);
  const SlotRequest request = AskForSlot<T>(p.placement);
  const ClusterPlace place(p, cuda::ClusterRank());
  if (threadIdx.x >= T::kConsumers) {
    BecomeLoader<T>();
    RunLoaders<T>(
        p, shared, place, request, [&](auto& loader) { LoadTiles(p, shared, place, loader); },
        [&] { SumTiles(p, shared, place); });
  } else {
    InitRing(shared, place);
    StartTogether<T>(place);
    AwaitFirstCopies<T>();
    BecomeConsumer<T>();
    Walk<T> walk(p, place);
    walk.Begin(shared.Slot());
    const int all_stages = static_cast<int>(p.stages.value);
    const int last_k = p.k - (all_stages - 1) * T::kK;
    ConsumerOf<T> consumer(p, shared, place);
    const int warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0);
    const int offset = warpgroup * T::kBlocks * 64;
    const StoreKind kind = StoreKindOf<T>(p.epilogue);
    StoreConstants<T> constants(shared.Constants(warpgroup));
    const uint32_t staging = shared.Staging() + warpgroup * T::kWarpgroupStagingBytes;
    const StoresOf<T> store(p, constants, staging);
    const PartialSums<T> partials(p, LoadLaunchNumber(shared.Slot()));
    const int cluster = walk.cluster();
    const int cta = cluster * p.cluster.size() + cuda::ClusterRank();  // whose slot sums go to
    const auto run = [&](const Work& work, const TilePosition& position) {
      const int row0 = T::kByToken ? position.token : position.row;
      const int token0 = T::kByToken ? position.row : position.token;
      // This warpgroup's part.
      const int own_row0 = T::kByToken ? row0 : row0 + offset;
      const int own_token0 = T::kByToken ? token0 + offset : token0;
      FetchTile<T>(consumer, p, row0);
      constants.Fetch(p, own_row0, own_token0);
      RunTile<T>(consumer, p, work.begin, work.end - work.begin,
                 work.end == all_stages ? last_k : T::kK, row0, token0);
      TokenRange range{0, T::kTokens};
      if constexpr (T::kShareable) {
        const int split_k = static_cast<int>(p.split_k.value);
        const int slice = split_k > 1 ? cluster - work.tile * split_k : 0;
        if (split_k > 1) {
          range = PartialSums<T>::Own(slice, p.split_k);  // every slice finishes some tokens
        }
        const bool finishes = split_k > 1 || work.end == all_stages;
        if (split_k > 1 || !finishes) {
          partials.Give(cta, consumer, finishes ? range : TokenRange{0, 0});
        }
        if (!finishes) {
          return;  // the last slice finishes the tile
        }
        if (split_k > 1 || work.begin > 0) {
          const int tile_begin = (work.tile - p.whole_tiles) * all_stages;
          int from = cluster;
          do {
            --from;
            partials.Take(consumer, range, split_k > 1 ? split_k - 1 : 1, [&](int i) {
              const int other = split_k > 1 ? (i < slice ? i : i + 1) - slice : from - cluster;
              return cta + other * p.cluster.size();
            });
          } while (split_k == 1 && Schedule::ShareBegin(p, from) > tile_begin);
        }
      }
      store.Take(kind, consumer, own_row0, own_token0, range);
    };
    walk.ForEach([&](const Work& work, const TilePosition& position, bool) {
      run(work, position);
      if constexpr (T::kSums) {
        ReleaseTinySums(shared);
      }
    });
  }
#endif
}

}  // namespace dualfp::sm90
