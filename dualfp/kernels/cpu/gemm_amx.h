// E4M3 times E4M3 on Intel's AMX: tiles of 16 rows of 64 bytes, one instruction for 16 x 16 sums of
// 32 products. Both operands are exact in bfloat16 and their products exact in float.
//
// Rows of W are a tile's rows (operand A), rows of X its columns (operand B), so that weights are
// used in the order in which they are decoded, and a few rows of X make narrow tiles (which take as
// long as wide ones). A sum takes 32 products of W's row at a time, in ascending steps of K: the 16
// products of even positions in turn, those of odd positions in turn, their two sums, and that
// added to the whole. Every loop below does so; none depends on M.
//
// A template over Tiles, the machine's instructions or, for tests where there are none, a model of
// them:
//   Configure(shapes), Release()     around all others; shapes[t] as in TileShape
//   Load<t>(p, stride), Store<t>     rows `stride` bytes apart
//   Zero<t>, MultiplyAdd<c, a, b>
//
// See gemm_tile.h for linkage.

#pragma once

#include <array>

#include "dualfp/kernels/cpu/gemm_avx512.h"

namespace dualfp::cpu {
namespace {  // NOLINT(google-build-namespaces): see the comment on linkage

struct TileShape {
  int rows = 0;
  int row_bytes = 0;
};

using TileShapes = std::array<TileShape, 8>;

constexpr int kAmxStepK = 32;             // elements of K in a tile
constexpr int kAmxPairs = kAmxStepK / 2;  // and its rows as operand B
constexpr int kAmxTileRows = 16;
constexpr int kAmxTileBytes = kAmxTileRows * 64;
constexpr int kAmxBlockK = 256;                     // a panel and a tile of X fit into the L1 cache
constexpr int kAmxPanelColumns = 2 * kAmxTileRows;  // of Y; rows of W
constexpr int kAmxPanelRows = 2 * kAmxTileRows;     // rows of X
constexpr int kAmxGroup = 64;  // elements that are decoded at a time: two steps

// Where in its row of X element k lies: as E4m3ToPairs leaves a weight's row.
DUALFP_GEMM_INLINE int64_t AmxPosition(int64_t k) {
  return k / 64 * 64 + k % 16 / 8 * 32 + k % 64 / 16 * 8 + k % 8;
}

// A group of row n to out and, its second step, to out + step_bytes.
DUALFP_GEMM_INLINE void AmxDecode(const OnePlaneRow& row, int64_t k, int64_t size,
                                  int64_t step_bytes, uint8_t* out) {
  const E4m3Pairs group = FiniteE4m3ToPairs(
      size >= kAmxGroup ? _mm512_loadu_si512(row.values + k)
                        : _mm512_maskz_loadu_epi8(FirstLanes(size), row.values + k));
  _mm512_store_si512(out, group.pairs[0]);
  _mm512_store_si512(out + step_bytes, group.pairs[1]);
}

DUALFP_GEMM_INLINE OnePlaneRow AmxRow(const WeightRows& weights, int64_t n) {
  return OnePlaneRow(weights, n < weights.n ? n : weights.n - 1);
}

// Up to 16 * kTilesX rows of X, prepared as [pair of K][row][2], times kUnitColumns rows of W.
template <typename Tiles, int kTilesX>
void AmxDirect(const InputRows& x, int64_t num_rows, const WeightRows& weights, int64_t column,
               float* sums) {
  constexpr int kColumns = kUnitColumns;
  constexpr int kHalf = kColumns / 2;  // columns of a tile
  constexpr int kStepBytes = kColumns * 64;
  static_assert(kHalf <= kAmxTileRows);
  const int row_bytes = static_cast<int>(num_rows) * 4;
  const int first = kTilesX == 1 ? row_bytes : 64;  // bytes of the first tile of X
  const int second = row_bytes - first;
  const TileShape w = {kHalf, 64};
  TileShapes shapes = {TileShape{kHalf, first}, {kHalf, first}, {}, {}, w, w, {kAmxPairs, first}};
  if constexpr (kTilesX == 2) {
    shapes[2] = shapes[3] = {kHalf, second};
    shapes[7] = {kAmxPairs, second};
  }
  Tiles::Configure(shapes);
  Tiles::template Zero<0>();
  Tiles::template Zero<1>();
  if constexpr (kTilesX == 2) {
    Tiles::template Zero<2>();
    Tiles::template Zero<3>();
  }
  OnePlaneRow rows[kColumns];
  for (int c = 0; c < kColumns; ++c) {
    rows[c] = AmxRow(weights, column + c);
  }
  // Two, as tiles cannot be loaded from stores that are still under way: one group is decoded while
  // the one before is multiplied.
  alignas(64) uint8_t buffers[2][2 * kStepBytes];
  const auto decode = [&](int64_t k) __attribute__((always_inline)) {
    uint8_t* buffer = buffers[k / kAmxGroup % 2];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      PrefetchLine(rows[0].values + kAhead + k * kColumns + c * kAmxGroup);
      PrefetchNear(rows[c].values + k);
      AmxDecode(rows[c], k, weights.k - k, kStepBytes, buffer + c * 64);
    }
  };
  const uint8_t* pairs = x.data;
  decode(0);
  for (int64_t k = 0; k < weights.k; k += kAmxGroup) {
    if (k + kAmxGroup < weights.k) {
      decode(k + kAmxGroup);
    }
    const uint8_t* buffer = buffers[k / kAmxGroup % 2];
#pragma GCC unroll 2
    for (int step = 0; step < 2; ++step) {
      Tiles::template Load<6>(pairs, row_bytes);
      Tiles::template Load<4>(buffer + step * kStepBytes, 64);
      Tiles::template MultiplyAdd<0, 4, 6>();
      Tiles::template Load<5>(buffer + step * kStepBytes + kHalf * 64, 64);
      Tiles::template MultiplyAdd<1, 5, 6>();
      if constexpr (kTilesX == 2) {
        Tiles::template Load<7>(pairs + 64, row_bytes);
        Tiles::template MultiplyAdd<2, 4, 7>();
        Tiles::template MultiplyAdd<3, 5, 7>();
      }
      pairs += kAmxPairs * row_bytes;
    }
  }
  float tile[kColumns * kAmxTileRows * kTilesX];
  Tiles::template Store<0>(tile, row_bytes);
  Tiles::template Store<1>(tile + kHalf * num_rows, row_bytes);
  if constexpr (kTilesX == 2) {
    Tiles::template Store<2>(tile + kAmxTileRows, row_bytes);
    Tiles::template Store<3>(tile + kHalf * num_rows + kAmxTileRows, row_bytes);
  }
  Tiles::Release();
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      sums[r * kColumns + c] = tile[c * num_rows + r];
    }
  }
}

// [step of K][column][element]: two tiles a step.
template <typename Tiles>
void AmxDecodePanel(const WeightRows& weights, PanelRange range, PanelRange next, int64_t size,
                    void* panel) {
  constexpr int kStepBytes = 2 * kAmxTileBytes;
  const int64_t ahead = (next.column - range.column) * weights.k + next.k - range.k;
  for (int c = 0; c < kAmxPanelColumns; ++c) {
    const OnePlaneRow row = AmxRow(weights, range.column + c);
    uint8_t* out = static_cast<uint8_t*>(panel) + c * 64;
    for (int64_t k = 0; k < size; k += kAmxGroup, out += 2 * kStepBytes) {
      PrefetchLine(row.values + range.k + k + ahead);
      AmxDecode(row, range.k + k, size - k, kStepBytes, out);
    }
  }
}

// x: [pair of K][32 rows][2]. sums: [column][row], until AmxOrder. kColumnsB: tiles of X.
template <typename Tiles, int kTilesX>
void AmxTile(const void* x, const void* panel, int64_t size, float* sums) {
  constexpr int kSumStride = kAmxPanelRows * 4;
  constexpr int kPairBytes = kAmxPanelRows * 4;
  constexpr int kHalf = kAmxTileRows * kAmxPanelRows;  // sums of 16 columns
  const auto* pairs = static_cast<const uint8_t*>(x);
  const auto* w = static_cast<const uint8_t*>(panel);
  Tiles::template Load<0>(sums, kSumStride);
  Tiles::template Load<1>(sums + kHalf, kSumStride);
  if constexpr (kTilesX == 2) {
    Tiles::template Load<2>(sums + kAmxTileRows, kSumStride);
    Tiles::template Load<3>(sums + kHalf + kAmxTileRows, kSumStride);
  }
  // Whole groups, over both of whose steps a tail is spread.
  const int64_t steps = (size + kAmxGroup - 1) / kAmxGroup * 2;
  for (int64_t step = 0; step < steps; ++step) {
    Tiles::template Load<4>(w, 64);
    Tiles::template Load<6>(pairs, kPairBytes);
    Tiles::template MultiplyAdd<0, 4, 6>();
    Tiles::template Load<5>(w + kAmxTileBytes, 64);
    Tiles::template MultiplyAdd<1, 5, 6>();
    if constexpr (kTilesX == 2) {
      Tiles::template Load<7>(pairs + 64, kPairBytes);
      Tiles::template MultiplyAdd<2, 4, 7>();
      Tiles::template MultiplyAdd<3, 5, 7>();
    }
    pairs += kAmxPairs * kPairBytes;
    w += 2 * kAmxTileBytes;
  }
  Tiles::template Store<0>(sums, kSumStride);
  Tiles::template Store<1>(sums + kHalf, kSumStride);
  if constexpr (kTilesX == 2) {
    Tiles::template Store<2>(sums + kAmxTileRows, kSumStride);
    Tiles::template Store<3>(sums + kHalf + kAmxTileRows, kSumStride);
  }
}

// 16 x 16 floats, 32 apart from row to row, the other way round.
DUALFP_GEMM_INLINE void Transpose16(const float* in, float* out) {
  __m512i a[16];
  __m512i b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    a[i] = _mm512_loadu_si512(in + i * 32);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
    a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
    a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
    a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i even = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88);
    const __m512i odd = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
    const __m512i even_high = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
    const __m512i odd_high = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
    _mm512_storeu_si512(out + i * 32, _mm512_shuffle_i32x4(even, even_high, 0x88));
    _mm512_storeu_si512(out + (4 + i) * 32, _mm512_shuffle_i32x4(odd, odd_high, 0x88));
    _mm512_storeu_si512(out + (8 + i) * 32, _mm512_shuffle_i32x4(even, even_high, 0xdd));
    _mm512_storeu_si512(out + (12 + i) * 32, _mm512_shuffle_i32x4(odd, odd_high, 0xdd));
  }
}

// A tile's sums from [column][row] to [row][column].
void AmxOrder(float* sums) {
  alignas(64) float turned[kAmxPanelRows * kAmxPanelColumns];
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      Transpose16(sums + (i * 32 + j) * 16, turned + (j * 32 + i) * 16);
    }
  }
  __builtin_memcpy(sums, turned, sizeof(turned));
}

// Pairs lie `stride` elements apart. E4M3 values lose nothing when their lower 16 bits are dropped.
void AmxArrange(const float* values, int64_t size, int64_t stride, void* x) {
  const __m512i apart =
      _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                         _mm512_set1_epi32(static_cast<int>(stride * 2)));
  const int64_t step = kAmxPairs * stride * 2;
  auto* out = static_cast<uint8_t*>(x);
  for (int64_t k = 0; k < size; k += kAmxGroup, out += 2 * step) {
    // The first 8 of each 16 are for the first step, the others for the second.
    __m512i steps[2] = {};
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512i bits = _mm512_loadu_si512(values + k + 16 * i);
      const __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
      const auto lanes = static_cast<__mmask8>(3 << 2 * i);
      steps[0] = _mm512_mask_broadcast_i64x2(steps[0], lanes, _mm256_castsi256_si128(halves));
      steps[1] = _mm512_mask_broadcast_i64x2(steps[1], lanes, _mm256_extracti128_si256(halves, 1));
    }
    if (stride == 2) {
      _mm512_storeu_si512(out, steps[0]);
      _mm512_storeu_si512(out + step, steps[1]);
    } else {
      _mm512_i32scatter_epi32(out, apart, steps[0], 1);
      _mm512_i32scatter_epi32(out + step, apart, steps[1], 1);
    }
  }
}

float AmxArranged(const void* x, int64_t k, int64_t stride) {
  const int64_t position = AmxPosition(k);
  const auto element = static_cast<const uint16_t*>(x)[position / 2 * stride + position % 2];
  return std::bit_cast<float>(static_cast<uint32_t>(element) << 16);
}

template <typename Tiles>
void AmxBegin() {
  TileShapes shapes;
  shapes.fill({kAmxTileRows, 64});
  Tiles::Configure(shapes);
}

template <typename Tiles>
constexpr GemmInner MakeAmxGemmInner() {
  static_assert(kAmxPanelColumns * kAmxBlockK * 2 <= kMaxPanelBytes);
  static_assert(kStripColumns % kAmxPanelColumns == 0);
  constexpr SizedLoop<DirectLoop> kDirect = {kAmxTileRows, kUnitColumns, AmxDirect<Tiles, 1>};
  constexpr SizedLoop<DirectLoop> kDirect2 = {2 * kAmxTileRows, kUnitColumns, AmxDirect<Tiles, 2>};
  static_assert(2 * kAmxTileRows <= kMaxDirectRows);
  constexpr SizedLoop<TileLoop> kOne = {kAmxTileRows, kAmxPanelColumns, AmxTile<Tiles, 1>};
  constexpr SizedLoop<TileLoop> kTwo = {kAmxPanelRows, kAmxPanelColumns, AmxTile<Tiles, 2>};
  return {
      .x_element_bytes = 2,
      .vector_elements = 2,
      .k_align = kAmxGroup,
      .block_k = kAmxBlockK,
      .block_rows = kMaxBlockRows,
      .value_scale = 1.0f,
      .direct = {kDirect, kDirect2, kDirect2, kDirect2},
      .tile = {kOne, kTwo, kTwo},
      .decode = AmxDecodePanel<Tiles>,
      .panel_position = nullptr,
      .arrange = AmxArrange,
      .arranged = AmxArranged,
      .keeps_order = false,
      .interleaves_rows = true,
      .begin = AmxBegin<Tiles>,
      .end = Tiles::Release,
      .order = AmxOrder,
  };
}

}  // namespace
}  // namespace dualfp::cpu
