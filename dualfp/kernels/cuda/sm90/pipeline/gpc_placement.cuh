// Which tiles a CTA of a persistent kernel takes. SMs of one GPC share what they read of L2 at the
// same time, so that tiles that share operands belong into one: of a wave of 128 x 128 tiles, those
// in order of CTAs draw 720 cycles of copies a stage, by GPC 400 (docs/kernels_notebook.md).
//
// The walk over tiles begins at slots, one a CTA, neighbouring ones for each GPC. Each launch deals
// all of them out: a CTA takes the next slot of the GPC in which it runs, or of another when there
// is none left. So each slot is taken once wherever CTAs run, and one that waits for its
// neighbours' sums finds them started, but for one such group a GPC: kernels that share a GPU do
// not wait for each other.

#pragma once

#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/cuda/common/mbarrier.cuh"
#include "dualfp/kernels/cuda/sm90/gemm_params.h"

namespace dualfp::sm90 {

constexpr uint32_t kIdleSlot = kMostSlots;  // past all tiles, since there are fewer than slots

constexpr uint32_t kManySlots = 1 << 30;

// The counter's value before this; after `last` it begins again. Not an addition: ptxas lets one
// lane add for all that are there, and waits for its answer on the spot.
__device__ __forceinline__ uint32_t AskNext(uint32_t* counter, uint32_t last = kManySlots) {
  uint32_t value;
  asm volatile("atom.relaxed.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(value)
               : "l"(counter), "r"(last)
               : "memory");
  return value;
}

// Answers of the counters on their way to one thread, which has nothing else to do.
struct SlotRequest {
  uint32_t started = 0;
  uint32_t gpc = 0;
  uint32_t own = 1;  // GpcSlots, here for rehearsing: a slot without work
  uint32_t index = 0;
};
template <class T>
constexpr int kSlotThread = T::kThreads - 32;

// The first thing that a CTA does: it takes 1,000 cycles, and weights wait for it.
template <class T>
__device__ __forceinline__ SlotRequest AskForSlot(const GpcPlacement& placement) {
  SlotRequest request;
  if (threadIdx.x == kSlotThread<T> && placement.started != nullptr) {
    request.started = AskNext(placement.started, placement.ctas.value * kLaunchNumbers - 1);
    if (placement.gpcs > 0) {
      uint32_t sm;
      asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
      request.gpc = placement.gpc_of_sm[min(sm, uint32_t{kMostSlots - 1})];
      request.index = AskNext(placement.taken + request.gpc);
      request.own = placement.of_gpc[request.gpc].word;
    }
  }
  return request;
}

// The thread that asked leaves the slot and the number of the launch at shared address `target`.
__device__ __forceinline__ void TakeSlot(const GpcPlacement& placement, SlotRequest request,
                                         uint32_t target) {
  if (threadIdx.x % 32 != 0 || placement.started == nullptr) {
    return;
  }
  uint32_t slot = 0;
  if (placement.gpcs > 0) {
    uint32_t gpc = request.gpc;
    uint32_t index = request.index;
    GpcSlots own(request.own);
    while (index >= own.slots()) {
      gpc = gpc + 1 == static_cast<uint32_t>(placement.gpcs) ? 0 : gpc + 1;
      own = placement.of_gpc[gpc];
      index = AskNext(placement.taken + gpc);
    }
    slot = index < own.busy() ? own.first() + index : kIdleSlot;
  }
  const uint32_t launch =
      (placement.ctas.Quotient(request.started) + 1) * kMostClusterSize + placement.kind;
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(target), "r"(slot), "r"(launch) : "memory");
}

// The same warp, when all of the CTA know the slot, lets the next kernel of the stream start. The
// last one of a launch frees all slots before.
__device__ __forceinline__ void LaunchDependents(const GpcPlacement& placement) {
  if (threadIdx.x % 32 != 0) {
    return;
  }
  if (placement.gpcs > 0 &&
      AskNext(placement.placed, placement.ctas.value - 1) == placement.ctas.value - 1) {
#pragma unroll 1
    for (int gpc = 0; gpc < placement.gpcs; ++gpc) {
      atomicExch(placement.taken + gpc, 0);
    }
    __threadfence();
  }
  cuda::GridLaunchDependents();
}

__device__ __forceinline__ int LoadSlot(uint32_t address) {
  int slot;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(slot) : "r"(address) : "memory");
  return slot;
}
__device__ __forceinline__ uint32_t LoadLaunchNumber(uint32_t address) {
  uint32_t launch;
  asm volatile("ld.shared.u32 %0, [%1 + 4];" : "=r"(launch) : "r"(address));
  return launch;
}

}  // namespace dualfp::sm90
