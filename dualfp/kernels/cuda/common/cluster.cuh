// Thread block clusters (PTX ISA 9.7.13.4 barrier.cluster, 9.7.9.22 mapa) and programmatic
// dependent launch (PTX ISA 9.7.13.13 griddepcontrol).

#pragma once

#include <cstdint>

namespace dualfp::cuda {

__device__ __forceinline__ uint32_t ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Along x, of the grid's clusters.
__device__ __forceinline__ int ClusterIndex() {
  int index;
  asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(index));
  return index;
}
__device__ __forceinline__ int ClusterCount() {
  int count;
  asm volatile("mov.u32 %0, %%nclusterid.x;" : "=r"(count));
  return count;
}

// All threads of all CTAs of the cluster. Relaxed: a release here would be a device-wide memory
// barrier; data that changes hands goes through mbarriers.
__device__ __forceinline__ void ClusterSyncRelaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The address of CTA rank's copy of a shared-memory location.
__device__ __forceinline__ uint32_t ClusterAddress(uint32_t shared, uint32_t rank) {
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared), "r"(rank));
  return remote;
}

// Lets the next kernel of the stream start its prologue. Says nothing about this kernel's output.
__device__ __forceinline__ void GridLaunchDependents() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// Waits until the previous kernel of the stream has finished and its writes are visible.
__device__ __forceinline__ void GridWaitForPrevious() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

}  // namespace dualfp::cuda
