// The seam between the GEMM driver (gemm_cpu.cc, compiled for any CPU) and its inner loops
// (gemm_<isa>.cc, each compiled for one instruction set). Raw pointers only: an inline function
// that both sides instantiated could be merged by the linker into the lesser machine's code.
//
// Every output is computed the same way by every loop of one GemmInner, whatever the batch:
// (AMX, which multiplies tiles, has an order of its own: gemm_amx.h. Of the others:)
//   * K is cut into blocks of `block_k` elements.
//   * Within a block, lane j of a vector sums, in ascending order, the products of the elements
//     that fall into lane j, one fused multiply-add each; the lanes are then added pairwise,
//     lane j to lane j + lanes/2 and so on.
//   * The blocks' sums are added in ascending order, beginning with zero.
// Only the number of outputs in flight differs (rows x columns of a tile), and that does not
// enter the result. This is what makes a row's result independent of M, of threads and of other
// rows, and a nested weight's result equal to the plain one's, bit for bit.

#pragma once

#include <cstdint>

#include "dualfp/tensor/row_parts.h"

namespace dualfp::cpu {

// Weight rows as the inner loops read them.
struct WeightRows {
  const uint8_t* values = nullptr;
  const uint8_t* lower = nullptr;  // nested: the second plane, same layout; nested12: nibbles
  int64_t row_bytes = 0;           // from one row of a plane to the next
  // 128x128 block scales: row parts.BlockRow(n) of them belongs to weight row n; else null.
  const float* block_scales = nullptr;
  int64_t blocks_per_row = 0;
  // E8M0 scales for each 32 elements of a row, `group_stride` bytes from one row's to the next;
  // else null.
  const uint8_t* group_scales = nullptr;
  int64_t group_stride = 0;
  RowParts parts;
  int64_t n = 0;
  int64_t k = 0;
};

// Prepared activations for direct loops: rows of `stride` bytes, aligned to 64, vector after
// vector, zero up to a multiple of k_align. Where rows are interleaved, [vector][row][element].
struct InputRows {
  const uint8_t* data = nullptr;
  int64_t stride = 0;
};

// What the driver's buffers are made for; gemm_tile.h checks the loops against it.
inline constexpr int kMaxPanelBytes = 16384;
inline constexpr int kMaxBlockK = 1024;
inline constexpr int kMaxDirectRows = 32;
inline constexpr int kUnitColumns = 24;  // every direct loop's columns divide this,
// and every tile's these, whose sums over all of K are kept for a block of rows.
inline constexpr int kStripColumns = 4 * kUnitColumns;
// A block's rows, a multiple of a tile's: as many as pay for decoding a panel, while all of their K
// fits into an L2 cache.
inline constexpr int kBlockRows = 64;
inline constexpr int kMaxBlockRows = 128;
inline constexpr int kMaxTileOverhead = 2;  // TileSize() to sums, in blocks of kBlockRows

// Floats that a loop may touch for a tile's sums: its stores come in eights.
constexpr int TileSize(int rows, int columns) { return (rows * columns + 7) / 8 * 8; }

// Sets sums[r * columns + c] = X[r] · W[column + c] for r < rows, c < columns. Rows and
// columns beyond `num_rows` and N repeat the last one, so that they are safe to read; the caller
// drops their sums.
using DirectLoop = void (*)(const InputRows& x, int64_t num_rows, const WeightRows& weights,
                            int64_t column, float* sums);

// Adds the product of one block of K, `size` elements, to sums, laid out as above. `panel` as
// decode left it. x: the block's activations, [vector][row of a whole tile][vector_elements]; a
// tile of fewer rows uses the first.
using TileLoop = void (*)(const void* x, const void* panel, int64_t size, float* sums);

// Columns [column, column + tile columns) and elements [k, k + size) of a weight; columns beyond N
// repeat the last.
struct PanelRange {
  int64_t column = 0;
  int64_t k = 0;
};

template <typename Loop>
struct SizedLoop {
  int rows = 0;
  int columns = 0;
  Loop run = nullptr;
};

struct GemmInner {
  int x_element_bytes;  // 4: float; 2: bfloat16
  int vector_elements;  // elements of K in a vector
  int k_align;          // elements
  int block_k;          // elements, a multiple of k_align and of 128
  int block_rows;       // at most
  float value_scale;    // a decoded weight times this is the stored value
  // Reads weights straight from memory, for few rows; by ascending rows, the last serves any M up
  // to its own.
  SizedLoop<DirectLoop> direct[4];
  // Decodes once into the L1 cache, then multiplies many rows; by ascending rows.
  SizedLoop<TileLoop> tile[3];
  // `size` elements of K at `range` to `panel`; meanwhile fetches those at `next` into a cache.
  void (*decode)(const WeightRows& weights, PanelRange range, PanelRange next, int64_t size,
                 void* panel);
  // Where a panel holds element k (from the block's beginning) of a column: an element index.
  int64_t (*panel_position)(int64_t k, int column);
  // `size` floats of a row (a multiple of k_align) to `x`, whose vectors lie `stride` elements
  // apart; and, for corrections, element k back.
  void (*arrange)(const float* values, int64_t size, int64_t stride, void* x);
  float (*arranged)(const void* x, int64_t k, int64_t stride);
  bool keeps_order;               // arrange() copies: a row of floats can be used where it lies
  bool interleaves_rows = false;  // in the activations of direct loops
  // Before and after a thread's use of tile loops; null where there is nothing to do.
  void (*begin)() = nullptr;
  void (*end)() = nullptr;
  // When all of K is in, turns a whole tile's sums to [row][column]; null where they are.
  void (*order)(float* sums) = nullptr;
};

// One for each way to read a weight; nested FP16 sums in the order of f16.
struct GemmInnerSet {
  GemmInner f16;
  GemmInner bf16;
  GemmInner f32;
  GemmInner nested;
  GemmInner nested12;  // sums in the order of bf16
  GemmInner e4m3;
  GemmInner e4m3_blocked;  // times the 128x128 block's scale
  GemmInner e4m3_mx;       // times the E8M0 scale of 32 elements
};

extern const GemmInnerSet kAvx2GemmInner;
extern const GemmInnerSet kAvx512GemmInner;
// Activations must be E4M3 values as well.
extern const GemmInner kAvx512Bf16E4m3GemmInner;
// The same in the order of kAvx512GemmInner.e4m3, for its few rows.
extern const GemmInner kAvx512Bf16E4m3FewRowsGemmInner;
extern const GemmInner kAmxE4m3GemmInner;

}  // namespace dualfp::cpu
