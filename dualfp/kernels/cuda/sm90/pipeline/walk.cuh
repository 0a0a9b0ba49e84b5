// How a CTA of a persistent kernel walks over its work.

#pragma once

#include "dualfp/kernels/cuda/sm90/pipeline/ring.cuh"
#include "dualfp/kernels/cuda/sm90/schedule.h"

namespace dualfp::sm90 {

// The first weight row and the first token of a CTA's tile.
struct TilePosition {
  int row;
  int token;
};

// The work of this CTA's cluster, one after the other. Code that has not run yet costs 70 cycles
// for each 8 instructions, so that the host has computed the first.
template <class T>
class Walk {
 public:
  __device__ __forceinline__ Walk(const GemmParams& p, const ClusterPlace& place)
      : p_(p), place_(place) {}

  // With the slot at shared address `slot`, after the start; 0: the first, whoever has it.
  __device__ __forceinline__ void Begin(uint32_t slot) {
    cluster_ = p_.placement.gpcs == 0 ? ClusterIndex(p_) : slot != 0 ? LoadSlot(slot) : 0;
    if constexpr (T::kCtas == 1) {
      const FirstWork& first = p_.first[cluster_];
      work_ = {first.tile, first.begin, first.end};
      index_ = {first.row, first.token};
    } else {  // there may be more clusters than slots
      work_ = Schedule(p_).First(cluster_, cuda::ClusterCount());
      index_ = TileAt(p_, work_.tile);
    }
  }

  // This CTA's cluster, by its place in the walk.
  __device__ int cluster() const { return cluster_; }
  __device__ bool any() const { return work_.end > 0; }
  // What it computes first.
  __device__ const Work& work() const { return work_; }
  __device__ TilePosition position() const { return Position(index_); }

  // Runs body(work, position of this CTA's tile, whether it is the first).
  template <class Body>
  __device__ __forceinline__ void ForEach(const Body& body) const {
    Work work = work_;
    TileIndex index = index_;
    Schedule schedule(p_);
    for (bool first = true; work.end > 0; first = false) {
      body(work, Position(index), first);
      if (p_.one_each) {
        return;
      }
      if (first) {
        schedule.First(cluster_, cuda::ClusterCount());
      }
      work = schedule.Next();
      index = TileAt(p_, work.tile);
    }
  }

  // This CTA's part of a cluster tile.
  __device__ __forceinline__ TilePosition Position(TileIndex index) const {
    return {(index.row * place_.shape.share_x + place_.x_rank) * T::kRows,
            (index.token * place_.shape.share_w + place_.w_rank) * T::kTokens};
  }

 private:
  // Clusters that share operands are powers of two; cuda::ClusterIndex divides.
  __device__ __forceinline__ static int ClusterIndex(const GemmParams& p) {
    return static_cast<int>(blockIdx.x) >> Log2(p.cluster.size());
  }

  const GemmParams& p_;
  const ClusterPlace& place_;
  int cluster_;
  Work work_;
  TileIndex index_;
};

}  // namespace dualfp::sm90
