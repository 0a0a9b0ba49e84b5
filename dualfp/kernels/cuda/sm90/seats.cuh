// Which tiles a CTA of a persistent kernel takes. SMs of one GPC share what they read of L2 at the
// same time, so that tiles that share operands belong into one: of a wave of 128 x 128 tiles, those
// in order of CTAs draw 720 cycles of copies a stage, by GPC 400 (docs/kernels.md).
//
// The walk over tiles begins at seats, one a CTA, neighbouring ones for each GPC. Each launch deals
// all of them out: a CTA takes the next seat of the GPC in which it runs, or of another when there
// is none left. So each seat is taken once wherever CTAs run, and one that waits for its
// neighbours' sums finds them started, but for one such group a GPC: kernels that share a GPC do
// not wait for each other.

#pragma once

#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/cuda/common/mbarrier.cuh"
#include "dualfp/kernels/cuda/sm90/gemm_params.h"

namespace dualfp::sm90 {

constexpr uint32_t kIdleSeat = 1 << 24;  // past all tiles

// A thread that has nothing else to do takes the seat.
template <class T>
constexpr int kSeatThread = T::kThreads - 32;

// This thread leaves the seat and the number of the launch at shared address `target`. Both atomics
// are under way together.
__device__ __forceinline__ void TakeSeat(const Seats& seats, uint32_t target) {
  const uint32_t started = atomicInc(seats.started, seats.ctas.value * kLaunchNumbers - 1);
  uint32_t seat = blockIdx.x;
  if (seats.gpcs > 0) {
    uint32_t sm;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
    uint32_t gpc = seats.gpc_of_sm[min(sm, uint32_t{kMostSeats - 1})];
    uint32_t index = atomicAdd(seats.taken + gpc, 1);
    while (index >= seats.seats[gpc]) {
      gpc = gpc + 1 == static_cast<uint32_t>(seats.gpcs) ? 0 : gpc + 1;
      index = atomicAdd(seats.taken + gpc, 1);
    }
    seat = index < seats.busy[gpc] ? seats.first[gpc] + index : kIdleSeat;
  }
  const uint32_t launch = (seats.ctas.Quotient(started) + 1) * kMostClusterSize + seats.kind;
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(target), "r"(seat), "r"(launch) : "memory");
  __threadfence_block();  // the barrier of a cluster is relaxed
}

// The same thread, later: the last one of a launch frees all seats.
__device__ __forceinline__ void LeaveSeats(const Seats& seats) {
  if (seats.gpcs > 0 && atomicInc(seats.seated, seats.ctas.value - 1) == seats.ctas.value - 1) {
    for (int gpc = 0; gpc < seats.gpcs; ++gpc) {
      atomicExch(seats.taken + gpc, 0);
    }
    __threadfence();
  }
}

// Lets the next kernel of the stream start, when all CTAs have their seats.
template <class T>
__device__ __forceinline__ void LaunchDependents(const Seats& seats) {
  if (threadIdx.x == kSeatThread<T>) {
    LeaveSeats(seats);
    cuda::GridLaunchDependents();
  }
  __syncwarp();  // setmaxnreg may follow, which takes whole warps
}

__device__ __forceinline__ int LoadSeat(uint32_t address) {
  int seat;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(seat) : "r"(address));
  return seat;
}
__device__ __forceinline__ uint32_t LoadLaunchNumber(uint32_t address) {
  uint32_t launch;
  asm volatile("ld.shared.u32 %0, [%1 + 4];" : "=r"(launch) : "r"(address));
  return launch;
}

}  // namespace dualfp::sm90
