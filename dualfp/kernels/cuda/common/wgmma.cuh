// Warpgroup matrix multiply: D[64, N] += A[64, K] · B[N, K]ᵀ with D in registers, B in shared
// memory, A in either (PTX ISA 9.7.15, wgmma.mma_async).
//
// Lane l of warp w of the warpgroup holds of D, for every block b of 8 columns,
//   d[4b + 0..1] = D[16w + l/4    ][8b + 2(l%4) .. +1]
//   d[4b + 2..3] = D[16w + l/4 + 8][8b + 2(l%4) .. +1]
// and of A in registers, 32 bytes of K (16 elements or 32), bytes
//   a[0], a[2] = A[16w + l/4    ][4(l%4) .. +3], [4(l%4) + 16 .. +19]
//   a[1], a[3] = the same of row 16w + l/4 + 8.

#pragma once

#include <cstdint>

// Mma<N>::RegistersF16, ::SharedE4m3, ...: one asm statement for each N (tools/generate_wgmma.py).
#include "dualfp/kernels/cuda/common/wgmma_generated.cuh"

namespace dualfp::cuda {

// Orders register accesses before the wgmmas that follow; needed after writing A or D registers.
__device__ __forceinline__ void WgmmaFence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void WgmmaCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most kPending committed groups are in flight.
template <int kPending>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving uses of accumulators across a WgmmaWait.
template <int kCount>
__device__ __forceinline__ void WgmmaPin(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    asm volatile("" : "+f"(d[i])::"memory");
  }
}

// Descriptor of a K-major operand whose rows are 128 bytes, 128-byte swizzled, in groups of eight
// rows (1024 bytes, aligned): matrix-descriptor format of PTX ISA 9.7.15.5.1.2. Advancing K by b
// bytes inside the 128 adds b/16; advancing by a group of eight rows adds 64.
__device__ __forceinline__ uint64_t WgmmaDescriptor128B(uint32_t shared) {
  constexpr uint64_t kSwizzle128B = 1ull << 62;
  constexpr uint64_t kStrideBetweenGroups = uint64_t{1024 / 16} << 32;
  return kSwizzle128B | kStrideBetweenGroups | ((shared & 0x3FFFF) >> 4);
}

// Moves registers between warpgroups (PTX ISA 9.7.19.5, setmaxnreg): executed by all warps of a
// warpgroup, in one branch a role, in a kernel with a register cap at entry.
template <int kRegisters>
__device__ __forceinline__ void RaiseRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void LowerRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace dualfp::cuda
