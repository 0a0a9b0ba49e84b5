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

// Where in the walk over tiles this CTA's cluster stands. Past the last place: nothing to do.
template <class T>
__device__ __forceinline__ int PlaceInWalk(const GemmParams& p, const SharedLayout<T>& shared) {
  return p.seats.gpcs > 0 ? LoadSeat(shared.Seat()) : cuda::ClusterIndex();
}

// Stages [begin, end) of a tile.
struct Work {
  int tile;
  int begin;
  int end;
};

// Either `parts` neighbouring clusters compute equal parts of one tile each and share its end, or
// the first whole_tiles tiles are dealt out whole. Then the stages of the others form a line, which
// is cut into one share a cluster, so that all clusters finish together although the tiles do not
// divide evenly among them. A cluster begins with the end of its share, if that leaves a tile
// unfinished, and ends with the beginning of it: the cluster that finishes a tile finds the
// others' sums ready, and clusters wait only for clusters before them.
class Schedule {
 public:
  __device__ Schedule(const GemmParams& p, int cluster, int clusters)
      : p_(p), next_(cluster), clusters_(clusters) {
    begin_ = ShareBegin(p, cluster);
    end_ = ShareBegin(p, cluster + 1);
    if (p.parts.value > 1 &&
        cluster >= p.row_clusters * p.token_clusters * static_cast<int>(p.parts.value)) {
      end_ = begin_;
    }
  }

  // Where the share of a cluster begins, in stages after the whole tiles.
  __device__ static int ShareBegin(const GemmParams& p, int cluster) {
    if (p.parts.value > 1) {
      const int tile = p.parts.Quotient(cluster);
      const int part = cluster - tile * static_cast<int>(p.parts.value);
      const int stages = static_cast<int>(p.stages.value);
      return tile * stages + p.parts.Quotient(part * stages);
    }
    return cluster * p.share_stages + min(cluster, p.share_longer);
  }

  __device__ bool Next(Work& work) {
    if (begin_ < end_) {
      const int tile = p_.stages.Quotient(end_ - 1);
      const int tile_begin = tile * static_cast<int>(p_.stages.value);
      const int tile_end = tile_begin + static_cast<int>(p_.stages.value);
      if (end_ < tile_end || next_ >= p_.whole_tiles) {
        const int first = max(begin_, tile_begin);
        work = {p_.whole_tiles + tile, first - tile_begin, end_ - tile_begin};
        end_ = first;
        return true;
      }
    }
    if (next_ < p_.whole_tiles) {
      work = {next_, 0, static_cast<int>(p_.stages.value)};
      next_ += clusters_;
      return true;
    }
    return false;
  }

 private:
  const GemmParams& p_;
  int next_;  // whole tile
  int clusters_;
  int begin_;  // of this cluster's share; what is left of it
  int end_;
};

}  // namespace dualfp::sm90
