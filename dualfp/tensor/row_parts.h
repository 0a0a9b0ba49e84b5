// Where the rows of fused projections (q, k and v; gate and up) lie in one weight, and which scales
// are theirs.
//
// Parts lie one below the other, or, two of equal size, interleaved: g0, u0, g1, u1, ..., so that a
// tile of products holds pairs for SiLU·mul. Every part has scales of its own: one F32 per part
// where scales are per tensor (Weight::global_scale, input_scale), and rows of 128x128 block scales
// that begin with the part and end in a ragged block, as published per projection:
//
//   block row of row i of part p = (scale_base[p] + i) / 128
//
// where scale_base[p] is 128 times the block rows before the part's. A checkpoint that stores the
// parts fused has blocks that run on over them: then scale_base[p] is the part's first row there.
// Scales per channel and per group lie in the order of the weight's own rows and need no mapping.

#pragma once

#include <cstdint>

#include "dualfp/numeric/host_device.h"

namespace dualfp {

inline constexpr int kMaxRowParts = 3;

// Plain data: kernels on every device take it by value. Rows count from 0 in the weight.
struct RowParts {
  int32_t count = 1;
  int32_t interleaved = 0;  // 1: two parts, whose rows alternate
  // Of parts that lie one below the other; those beyond `count` begin nowhere.
  int32_t first_row[kMaxRowParts] = {0, INT32_MAX, INT32_MAX};
  int32_t scale_base[kMaxRowParts] = {0, 0, 0};

  // Forced inline: a copy that the linker shares would be compiled for one instruction set.
  [[gnu::always_inline]] DUALFP_HOST_DEVICE constexpr int32_t Part(int64_t row) const {
    return interleaved != 0      ? static_cast<int32_t>(row & 1)
           : row >= first_row[2] ? 2
           : row >= first_row[1] ? 1
                                 : 0;
  }

  // The place of a row in its part.
  [[gnu::always_inline]] DUALFP_HOST_DEVICE constexpr int32_t RowInPart(int64_t row) const {
    return static_cast<int32_t>(interleaved != 0 ? row >> 1 : row - first_row[Part(row)]);
  }

  // Row of 128x128 block scales.
  [[gnu::always_inline]] DUALFP_HOST_DEVICE constexpr int32_t BlockRow(int64_t row) const {
    return (scale_base[Part(row)] + RowInPart(row)) >> 7;
  }

  friend bool operator==(const RowParts&, const RowParts&) = default;
};

}  // namespace dualfp
