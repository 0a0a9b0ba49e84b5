// Which part of which tile the clusters of a persistent kernel compute, and in which order.

#pragma once

#include "dualfp/kernels/cuda/sm90/ring.cuh"

namespace dualfp::sm90 {

struct TilePosition {
  int row;
  int token;
};

// Cluster tiles in the order in which clusters take them: groups of `raster_group` of them along
// the weights are walked token tile by token tile, so that what runs at one time shares operands in
// L2.
template <class T>
class Raster {
 public:
  __device__ Raster(const GemmParams& p, const ClusterPlace& place)
      : p_(p),
        rows_(T::kRows * p.cluster.share_x),
        tokens_(T::kTokens * p.cluster.share_w),
        row_offset_(place.x_rank * T::kRows),
        token_offset_(place.w_rank * T::kTokens) {}

  // This CTA's part of a cluster tile.
  __device__ TilePosition At(int tile) const {
    const int group = p_.raster_group_tiles.Quotient(tile);
    const int first = group * p_.raster_group.value;
    const int inside = tile - group * p_.raster_group_tiles.value;
    const bool last = first + static_cast<int>(p_.raster_group.value) > p_.row_clusters;
    const Divisor& width = last ? p_.raster_last_group : p_.raster_group;
    const int token = width.Quotient(inside);
    return {(first + inside - token * static_cast<int>(width.value)) * rows_ + row_offset_,
            token * tokens_ + token_offset_};
  }

 private:
  const GemmParams& p_;
  int rows_;  // of a cluster
  int tokens_;
  int row_offset_;  // of this CTA in its cluster
  int token_offset_;
};

// Stages [begin, end) of a tile.
struct Work {
  int tile = 0;
  int begin = 0;
  int end = 0;
};

// Either `parts` neighbouring clusters compute equal parts of one tile each and share its end, or
// the first whole_tiles tiles are dealt out whole. Then the stages of the others form a line, which
// is cut into one share a cluster, so that all clusters finish together although the tiles do not
// divide evenly among them. A cluster begins with the end of its share, if that leaves a tile
// unfinished, and ends with the beginning of it: the cluster that finishes a tile finds the
// others' sums ready, and clusters wait only for clusters before them.
class Schedule {
 public:
  __device__ __forceinline__ explicit Schedule(const GemmParams& p) : p_(p) {}

  // The first work of a cluster; none: an empty one.
  __device__ __forceinline__ Work First(int cluster, int clusters) {
    next_ = cluster;
    clusters_ = clusters;
    if (p_.parts.value > 1) {
      const int stages = static_cast<int>(p_.stages.value);
      const int tile = p_.parts.Quotient(cluster);
      const int begin = (cluster - tile * static_cast<int>(p_.parts.value)) * stages;
      next_ = p_.whole_tiles;
      begin_ = end_ = 0;
      return tile < p_.part_tiles
                 ? Work{tile, p_.parts.Quotient(begin), p_.parts.Quotient(begin + stages)}
                 : Work{};
    }
    begin_ = end_ = 0;
    if (p_.share_stages > 0 || p_.share_longer > 0) {
      begin_ = ShareBegin(p_, cluster);
      end_ = ShareBegin(p_, cluster + 1);
    }
    return Next();
  }

  // Where the share of a cluster begins, in stages after the whole tiles.
  __device__ static int ShareBegin(const GemmParams& p, int cluster) {
    return cluster * p.share_stages + min(cluster, p.share_longer);
  }

  __device__ __forceinline__ Work Next() {
    const int stages = static_cast<int>(p_.stages.value);
    if (begin_ < end_) {
      const int tile = p_.stages.Quotient(end_ - 1);
      const int tile_begin = tile * stages;
      if (end_ < tile_begin + stages || next_ >= p_.whole_tiles) {
        const int first = max(begin_, tile_begin);
        const Work work{p_.whole_tiles + tile, first - tile_begin, end_ - tile_begin};
        end_ = first;
        return work;
      }
    }
    if (next_ < p_.whole_tiles) {
      const Work work{next_, 0, stages};
      next_ += clusters_;
      return work;
    }
    return {};
  }

 private:
  const GemmParams& p_;
  int next_;  // whole tile
  int clusters_;
  int begin_;  // of this cluster's share; what is left of it
  int end_;
};

// The work of this CTA's cluster, one after the other. All code of a kernel's start is cold, 70
// cycles for each 8 instructions, so that a CTA computes the first work while its seat is on its
// way, a thread for each seat that it may get.
template <class T>
class Walk {
 public:
  // All consumers, before the start.
  __device__ __forceinline__ static void Prepare(const GemmParams& p, const Raster<T>& raster,
                                                 const SharedLayout<T>& shared) {
    static_assert(T::kRegionBytes - T::kRingBytes >= kFirstBytes * (kMostSeats + 1));
    static_assert(T::kConsumers > kMostSeats || T::kCtas > 1);
    const int thread = threadIdx.x;
    if (thread > (p.seats.gpcs > 0 ? kMostSeats : 0)) {
      return;
    }
    Schedule schedule(p);
    const Work work =
        schedule.First(p.seats.gpcs > 0 ? thread : ClusterIndex(p), cuda::ClusterCount());
    const TilePosition position = raster.At(work.tile);
    asm volatile(
        "st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared.Staging() + thread * kFirstBytes),
        "r"(work.tile), "r"(work.begin | work.end << 16), "r"(position.row), "r"(position.token)
        : "memory");
  }

  // After it.
  __device__ __forceinline__ Walk(const GemmParams& p, const Raster<T>& raster,
                                  const SharedLayout<T>& shared)
      : p_(p), raster_(raster) {
    const bool seated = p.seats.gpcs > 0;
    cluster_ = seated ? LoadSeat(shared.Seat()) : ClusterIndex(p);
    const uint32_t source = shared.Staging() + (seated ? cluster_ : 0) * kFirstBytes;
    uint32_t stages;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(work_.tile), "=r"(stages), "=r"(position_.row), "=r"(position_.token)
                 : "r"(source)
                 : "memory");
    work_.begin = stages & 0xFFFF;
    work_.end = stages >> 16;
  }

  // This CTA's cluster, by its place in the walk.
  __device__ int cluster() const { return cluster_; }
  __device__ bool any() const { return work_.end > 0; }

  // Runs body(work, position of this CTA's tile, whether it is the first).
  template <class Body>
  __device__ __forceinline__ void ForEach(const Body& body) const {
    Work work = work_;
    TilePosition position = position_;
    Schedule schedule(p_);
    for (bool first = true; work.end > 0; first = false) {
      body(work, position, first);
      if (p_.one_each) {
        return;
      }
      if (first) {
        schedule.First(cluster_, cuda::ClusterCount());
      }
      work = schedule.Next();
      position = raster_.At(work.tile);
    }
  }

 private:
  static constexpr int kFirstBytes = 16;

  // Clusters that share operands are powers of two; cuda::ClusterIndex divides.
  __device__ __forceinline__ static int ClusterIndex(const GemmParams& p) {
    return static_cast<int>(blockIdx.x) >> Log2(p.cluster.size());
  }

  const GemmParams& p_;
  const Raster<T>& raster_;
  int cluster_;
  Work work_;
  TilePosition position_;
};

}  // namespace dualfp::sm90
