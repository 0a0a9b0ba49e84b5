#include "dualfp/kernels/cuda/sm90/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

namespace dualfp::sm90 {
namespace {

TEST(DivisorTest, EqualsDivision) {
  for (int divisor = 1; divisor < 2000; ++divisor) {
    const Divisor d(divisor);
    for (const int64_t near : {0, 1, 63, 1000, 65536, 1 << 20, 0x7FFFFFFF}) {
      for (int64_t n = near / divisor * divisor - 1; n <= near / divisor * divisor + 1; ++n) {
        if (n >= 0 && n <= 0x7FFFFFFF) {
          ASSERT_EQ(d.Quotient(static_cast<int>(n)), n / divisor) << n << " / " << divisor;
        }
      }
    }
  }
}

GemmParams Tiles(int rows, int tokens, int stages, int group) {
  GemmParams p;
  p.row_clusters = rows;
  p.token_clusters = tokens;
  p.stages = Divisor(stages);
  group = group < rows ? group : rows;
  const int last = rows % group;
  p.raster_group = Divisor(group);
  p.raster_last_group = Divisor(last == 0 ? group : last);
  p.raster_group_tiles = Divisor(group * tokens);
  p.split_k = Divisor(1);
  p.whole_tiles = rows * tokens;
  return p;
}

// Each stage of each tile is computed once; returns the most works of a cluster.
size_t Walk(const GemmParams& p, int clusters) {
  const int tiles = p.row_clusters * p.token_clusters;
  const int stages = static_cast<int>(p.stages.value);
  std::vector<int> computed(static_cast<size_t>(tiles) * stages);
  size_t most = 0;
  for (int cluster = 0; cluster < clusters; ++cluster) {
    Schedule schedule(p);
    size_t works = 0;
    for (Work work = schedule.First(cluster, clusters); work.end > 0; work = schedule.Next()) {
      EXPECT_LT(work.begin, work.end);
      EXPECT_LE(work.end, stages);
      EXPECT_LT(work.tile, tiles);
      for (int stage = work.begin; stage < work.end; ++stage) {
        ++computed.at(static_cast<size_t>(work.tile) * stages + stage);
      }
      ++works;
    }
    most = std::max(most, works);
  }
  for (const int count : computed) {
    EXPECT_EQ(count, 1);
  }
  return most;
}

TEST(ScheduleTest, TilesAreWalkedOnce) {
  for (const auto& [rows, tokens] : {std::pair{1, 1}, {7, 3}, {32, 4}, {33, 5}}) {
    for (const int group : {1, 3, 8, 16}) {
      const GemmParams p = Tiles(rows, tokens, 5, group);
      std::set<std::pair<int, int>> places;
      for (int tile = 0; tile < rows * tokens; ++tile) {
        const TileIndex at = TileAt(p, tile);
        EXPECT_TRUE(at.row >= 0 && at.row < rows && at.token >= 0 && at.token < tokens);
        places.emplace(at.row, at.token);
      }
      EXPECT_EQ(places.size(), static_cast<size_t>(rows * tokens));
    }
  }
}

TEST(ScheduleTest, WholeTiles) {
  for (const int clusters : {1, 66, 132}) {
    const GemmParams p = Tiles(33, 5, 7, 8);
    EXPECT_EQ(Walk(p, clusters), static_cast<size_t>((165 + clusters - 1) / clusters));
  }
}

TEST(ScheduleTest, SplitK) {
  for (const int split_k : {2, 3, 4}) {
    for (const int stages : {4, 5, 64}) {
      GemmParams p = Tiles(16, 2, stages, 8);
      p.split_k = Divisor(split_k);
      p.split_tiles = 32;
      p.whole_tiles = 0;
      EXPECT_EQ(Walk(p, 132), 1u);
    }
  }
}

TEST(ScheduleTest, StreamK) {
  for (const int tiles : {1, 40, 100, 133, 263, 264, 500}) {
    for (const int clusters : {60, 132}) {
      GemmParams p = Tiles(tiles, 1, 9, 8);
      p.whole_tiles = std::max(0, tiles / clusters - 1) * clusters;
      const int stages = (tiles - p.whole_tiles) * 9;
      p.share_stages = stages / clusters;
      p.share_longer = stages % clusters;
      Walk(p, clusters);
    }
  }
}

}  // namespace
}  // namespace dualfp::sm90
