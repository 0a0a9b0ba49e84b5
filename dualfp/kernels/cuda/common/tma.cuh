// The bulk tensor copy engine (PTX ISA 9.7.9.27, cp.async.bulk.tensor). Coordinates count elements,
// innermost first; boxes outside the tensor read as zero and are not written.

#pragma once

#include <cuda.h>

#include <cstdint>

namespace dualfp::cuda {

// The first copy through a tensor map waits for the map: fetch it while there is nothing to do.
__device__ __forceinline__ void PrefetchTensorMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Global to shared; completes `barrier` by the box's bytes.
__device__ __forceinline__ void TmaLoad2D(uint32_t shared, const CUtensorMap* map, uint32_t barrier,
                                          int x, int y, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "l"(policy)
      : "memory");
}

// The same into this offset, and completing this barrier, of every CTA of the cluster in `mask`.
__device__ __forceinline__ void TmaLoad2DMulticast(uint32_t shared, const CUtensorMap* map,
                                                   uint32_t barrier, int x, int y, uint16_t mask,
                                                   uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "h"(mask), "l"(policy)
      : "memory");
}

// `bytes` (a multiple of 16) of this CTA's shared memory to that of a CTA of the cluster, whose
// barrier they complete (PTX ISA 9.7.9.25.4, cp.async.bulk). Both targets are cluster addresses.
__device__ __forceinline__ void BulkCopyToCluster(uint32_t remote, uint32_t shared, uint32_t bytes,
                                                  uint32_t remote_barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(remote),
      "r"(shared), "r"(bytes), "r"(remote_barrier)
      : "memory");
}

// Orders this thread's ordinary shared-memory accesses before later asynchronous ones (TMA, wgmma).
__device__ __forceinline__ void FenceAsyncShared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace dualfp::cuda
