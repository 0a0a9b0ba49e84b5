// What multiplies a tile, by its weights' format.

#pragma once

#include <type_traits>

#include "dualfp/kernels/cuda/sm90/mainloop/nested_loop.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop/promoted.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop/promoted_by_token.cuh"
#include "dualfp/kernels/cuda/sm90/mainloop/shared_loop.cuh"

namespace dualfp::sm90 {

template <class T>
using PromotedConsumerOf =
    std::conditional_t<T::kByToken, PromotedByTokenConsumer<T>, PromotedConsumer<T>>;
template <class T>
using ConsumerOf =
    std::conditional_t<T::kDecoded, NestedConsumer<T>,
                       std::conditional_t<T::kPromoted, PromotedConsumerOf<T>, SharedConsumer<T>>>;

// Some time before RunTile.
template <class T>
__device__ __forceinline__ void FetchTile(ConsumerOf<T>& consumer, const GemmParams& p, int row0) {
  if constexpr (T::kDecoded) {
    consumer.Fetch(p, row0);
  }
}

// Stages `first`, first + 1, ... of the problem's K, the last of which holds `last_k` elements, of
// the CTA's tile at weight row0 and token0.
template <class T>
__device__ __forceinline__ void RunTile(ConsumerOf<T>& consumer, const GemmParams& p, int first,
                                        int stages, int last_k, int row0, int token0) {
  if constexpr (T::kPromoted) {
    consumer.Run(p, first, stages, row0, token0);
  } else if constexpr (T::kDecoded) {
    consumer.Run(first, stages, last_k);
  } else {
    consumer.Run(stages, [] {});
  }
}

}  // namespace dualfp::sm90
