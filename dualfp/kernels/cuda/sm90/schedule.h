// Which part of which tile the clusters of a persistent kernel compute, and in which order: on the
// host for what they compute first, on the device for the rest.

#pragma once

#include "dualfp/kernels/cuda/sm90/gemm_params.h"

namespace dualfp::sm90 {

// Stages [begin, end) of a tile.
struct Work {
  int tile = 0;
  int begin = 0;
  int end = 0;
};

// A cluster tile's place along the weights and along the tokens.
struct TileIndex {
  int row;
  int token;
};

// Cluster tiles in the order in which clusters take them: groups of `raster_group` of them along
// the weights are walked token tile by token tile, so that what runs at one time shares operands in
// L2.
DUALFP_HOST_DEVICE inline TileIndex TileAt(const GemmParams& p, int tile) {
  const int group = p.raster_group_tiles.Quotient(tile);
  const int first = group * static_cast<int>(p.raster_group.value);
  const int inside = tile - group * static_cast<int>(p.raster_group_tiles.value);
  const bool last = first + static_cast<int>(p.raster_group.value) > p.row_clusters;
  const Divisor& width = last ? p.raster_last_group : p.raster_group;
  const int token = width.Quotient(inside);
  return {first + inside - token * static_cast<int>(width.value), token};
}

// Either `split_k` neighbouring clusters compute equal parts of one tile each and share its end, or
// the first whole_tiles tiles are dealt out whole. Then the stages of the others form a line, which
// is cut into one share a cluster, so that all clusters finish together although the tiles do not
// divide evenly among them. A cluster begins with the end of its share, if that leaves a tile
// unfinished, and ends with the beginning of it: the cluster that finishes a tile finds the
// others' sums ready, and clusters wait only for clusters before them.
class Schedule {
 public:
  DUALFP_HOST_DEVICE explicit Schedule(const GemmParams& p) : p_(p) {}

  // The first work of a cluster; none: an empty one.
  DUALFP_HOST_DEVICE Work First(int cluster, int clusters) {
    next_ = cluster;
    clusters_ = clusters;
    if (p_.split_k.value > 1) {
      const int stages = static_cast<int>(p_.stages.value);
      const int tile = p_.split_k.Quotient(cluster);
      const int begin = (cluster - tile * static_cast<int>(p_.split_k.value)) * stages;
      next_ = p_.whole_tiles;
      begin_ = end_ = 0;
      return tile < p_.split_tiles
                 ? Work{tile, p_.split_k.Quotient(begin), p_.split_k.Quotient(begin + stages)}
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
  DUALFP_HOST_DEVICE static int ShareBegin(const GemmParams& p, int cluster) {
    return cluster * p.share_stages + (cluster < p.share_longer ? cluster : p.share_longer);
  }

  DUALFP_HOST_DEVICE Work Next() {
    const int stages = static_cast<int>(p_.stages.value);
    if (begin_ < end_) {
      const int tile = p_.stages.Quotient(end_ - 1);
      const int tile_begin = tile * stages;
      if (end_ < tile_begin + stages || next_ >= p_.whole_tiles) {
        const int first = begin_ > tile_begin ? begin_ : tile_begin;
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

}  // namespace dualfp::sm90
