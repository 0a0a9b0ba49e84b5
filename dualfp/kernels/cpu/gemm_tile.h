// The inner loops of gemm_inner.h for one way to read a weight, as templates over a Traits type:
//
//   Vector                      accumulator: a vector of floats
//   Operand, Element            a vector of activations or decoded weights, and its element
//   kVectorElements             elements of K that one multiply-add consumes
//   kGroupVectors               vectors of weights that are read at a time: a group
//   kTailElements               a tail of K is worked on in multiples of this
//   kBlockK                     GemmInner::block_k
//   kValueScale                 GemmInner::value_scale
//   Position(k)                 where in X and, but for its columns, in a panel element k lies
//   Arrange(values, x)          a group of floats to those positions; ToFloat(element)
//   kKeepsOrder                 Position(k) = k and Element is float
//   Row                         pointers into the planes of one weight row; Row(weights, n)
//   Pack(row, k)                the group at element k, half decoded: little enough to be kept in
//                               registers for several columns
//   PackTail(row, k, size)      the same of the first `size` elements; the rest are zero weights,
//                               and nothing beyond is read
//   Unpack(packed, v)           the group's vector v of weights
//   Prefetch(row, k)            the group at element k, which may lie outside the row and the
//   weight Zero, MulAdd(acc, x, w), Load(element*), Store(element*, operand) Pin(operand) keeps an
//   operand in its register: compilers would rather load it
//                               again for each use, and then loads bound the loop
//   AddReduced<count>(acc, sums) adds each accumulator's sum over lanes to sums[count]
//
// Included only by files that are compiled for one instruction set; everything has internal
// linkage, because an out-of-line copy could be shared with code that runs on lesser machines.

#pragma once

#include "dualfp/kernels/cpu/gemm_inner.h"

namespace dualfp::cpu {
namespace {  // NOLINT(google-build-namespaces): see the comment on linkage

#define DUALFP_GEMM_INLINE [[gnu::always_inline]] static inline

template <typename T>
constexpr int kGroup = T::kVectorElements* T::kGroupVectors;

template <typename T>
constexpr int TailVectors(int64_t size) {
  return static_cast<int>((size + T::kTailElements - 1) / T::kTailElements * T::kTailElements /
                          T::kVectorElements);
}

template <typename T, int kRows>
DUALFP_GEMM_INLINE void RowPointers(const InputRows& x, int64_t num_rows,
                                    const typename T::Element** rows) {
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = r < num_rows ? r : num_rows - 1;
    rows[r] = reinterpret_cast<const typename T::Element*>(x.data + row * x.stride);
  }
}

// acc[kRows][kColumns] += one vector of each row times one of each column.
template <typename T, int kRows, int kColumns>
DUALFP_GEMM_INLINE void MulAddVector(const typename T::Element* const* rows, int64_t offset,
                                     const typename T::Operand* w, typename T::Vector* acc) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    typename T::Operand x = T::Load(rows[r] + offset);
    if constexpr (kRows * kColumns >= 24) {
      T::Pin(x);
    }
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      acc[r * kColumns + c] = T::MulAdd(acc[r * kColumns + c], x, w[c]);
    }
  }
}

// Weights are read from several rows at once, but fetched into the L2 cache as one stream in the
// order in which they lie in memory, this many elements ahead: memory serves one stream best.
constexpr int64_t kAhead = 32768;

template <typename T, int kRows, int kColumns>
void Direct(const InputRows& x, int64_t num_rows, const WeightRows& weights, int64_t column,
            float* sums) {
  const int64_t k_size = weights.k;
  const typename T::Element* rows[kRows];
  RowPointers<T, kRows>(x, num_rows, rows);
  typename T::Row columns[kColumns];
#pragma GCC unroll 8
  for (int c = 0; c < kColumns; ++c) {
    columns[c] = typename T::Row(weights, column + c < weights.n ? column + c : weights.n - 1);
  }
  for (int i = 0; i < kRows * kColumns; ++i) {
    sums[i] = 0.0f;
  }
  for (int64_t block = 0; block < k_size; block += T::kBlockK) {
    const int64_t end = block + T::kBlockK < k_size ? block + T::kBlockK : k_size;
    typename T::Vector acc[kRows * kColumns];
#pragma GCC unroll 32
    for (auto& a : acc) {
      a = T::Zero();
    }
    int64_t k = block;
    for (; k + kGroup<T> <= end; k += kGroup<T>) {
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) {
        T::Prefetch(columns[0], kAhead + k * kColumns + c * kGroup<T>);
      }
      if constexpr (kRows < 4) {
        // Column by column, so that decoding one overlaps multiplying the one before.
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) {
          const auto packed = T::Pack(columns[c], k);
#pragma GCC unroll 8
          for (int v = 0; v < T::kGroupVectors; ++v) {
            const typename T::Operand w = T::Unpack(packed, v);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
              acc[r * kColumns + c] = T::MulAdd(acc[r * kColumns + c],
                                                T::Load(rows[r] + k + v * T::kVectorElements), w);
            }
          }
        }
      } else {
        // Vector by vector, so that an activation is loaded once for all columns.
        typename T::Packed packed[kColumns];
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) {
          packed[c] = T::Pack(columns[c], k);
        }
#pragma GCC unroll 8
        for (int v = 0; v < T::kGroupVectors; ++v) {
          typename T::Operand w[kColumns];
#pragma GCC unroll 8
          for (int c = 0; c < kColumns; ++c) {
            w[c] = T::Unpack(packed[c], v);
          }
          MulAddVector<T, kRows, kColumns>(rows, k + v * T::kVectorElements, w, acc);
        }
      }
    }
    if (k < end) {
      typename T::Packed packed[kColumns];
      for (int c = 0; c < kColumns; ++c) {
        packed[c] = T::PackTail(columns[c], k, end - k);
      }
#pragma GCC unroll 8
      for (int v = 0; v < T::kGroupVectors; ++v) {
        if (v < TailVectors<T>(end - k)) {
          typename T::Operand w[kColumns];
#pragma GCC unroll 8
          for (int c = 0; c < kColumns; ++c) {
            w[c] = T::Unpack(packed[c], v);
          }
          MulAddVector<T, kRows, kColumns>(rows, k + v * T::kVectorElements, w, acc);
        }
      }
    }
    T::template AddReduced<kRows * kColumns>(acc, sums);
  }
}

// A panel is [vector of K][column][kVectorElements].
template <typename T, int kColumns>
int64_t PanelPosition(int64_t k, int column) {
  const int64_t position = T::Position(k);
  return (position / T::kVectorElements * kColumns + column) * T::kVectorElements +
         position % T::kVectorElements;
}

template <typename T, int kColumns>
void DecodePanel(const WeightRows& weights, PanelRange range, PanelRange next, int64_t size,
                 void* panel) {
  const int64_t ahead = (next.column - range.column) * weights.k + next.k - range.k;
  for (int c = 0; c < kColumns; ++c) {
    const int64_t column = range.column + c < weights.n ? range.column + c : weights.n - 1;
    const typename T::Row row(weights, column);
    auto* out = static_cast<typename T::Element*>(panel) + c * T::kVectorElements;
    constexpr int kStep = kColumns * T::kVectorElements;
    int64_t k = 0;
    for (; k + kGroup<T> <= size; k += kGroup<T>) {
      T::Prefetch(row, range.k + k + ahead);
      const auto packed = T::Pack(row, range.k + k);
#pragma GCC unroll 8
      for (int v = 0; v < T::kGroupVectors; ++v) {
        T::Store(out + v * kStep, T::Unpack(packed, v));
      }
      out += T::kGroupVectors * kStep;
    }
    if (k < size) {
      const auto packed = T::PackTail(row, range.k + k, size - k);
#pragma GCC unroll 8
      for (int v = 0; v < T::kGroupVectors; ++v) {
        if (v < TailVectors<T>(size - k)) {
          T::Store(out + v * kStep, T::Unpack(packed, v));
        }
      }
    }
  }
}

// A block of activations lies in the L2 cache; a tile's next vectors are fetched from there so many
// steps before they are multiplied.
constexpr int kTileAhead = 4;

// kSlots: rows of a whole tile, which x is laid out for.
template <typename T, int kRows, int kSlots, int kColumns>
void Tile(const void* x, const void* panel, int64_t size, float* sums) {
  const auto* row = static_cast<const typename T::Element*>(x);
  const auto* w = static_cast<const typename T::Element*>(panel);
  typename T::Vector acc[kRows * kColumns];
#pragma GCC unroll 32
  for (auto& a : acc) {
    a = T::Zero();
  }
  const int vectors = TailVectors<T>(size);
  for (int vector = 0; vector < vectors; ++vector) {
    typename T::Operand operands[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      operands[r] = T::Load(row + r * T::kVectorElements);
      __builtin_prefetch(row + (kSlots * kTileAhead + r) * T::kVectorElements, 0, 3);
    }
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      const typename T::Operand column = T::Load(w + c * T::kVectorElements);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        acc[r * kColumns + c] = T::MulAdd(acc[r * kColumns + c], operands[r], column);
      }
    }
    row += kSlots * T::kVectorElements;
    w += kColumns * T::kVectorElements;
  }
  T::template AddReduced<kRows * kColumns>(acc, sums);
}

template <typename T>
void ArrangeRow(const float* values, int64_t size, int64_t stride, void* x) {
  auto* out = static_cast<typename T::Element*>(x);
  for (int64_t k = 0; k < size; k += kGroup<T>) {
    alignas(64) typename T::Element group[kGroup<T>];
    T::Arrange(values + k, group);
#pragma GCC unroll 8
    for (int v = 0; v < T::kGroupVectors; ++v) {
      T::Store(out, T::Load(group + v * T::kVectorElements));
      out += stride;
    }
  }
}

template <typename T>
float Arranged(const void* x, int64_t k, int64_t stride) {
  const int64_t position = T::Position(k);
  return T::ToFloat(static_cast<const typename T::Element*>(
      x)[position / T::kVectorElements * stride + position % T::kVectorElements]);
}

// kDirect<R>: columns of the direct loop for R rows. FewRows: Traits for 1 and 2 rows, where
// decoding is most of the work; it must decode to the same as T.
template <typename T, typename FewRows, int kTileRows, int kTileColumns, int kDirect1, int kDirect2,
          int kDirect4, int kDirect8>
constexpr GemmInner MakeGemmInner() {
  static_assert(kUnitColumns % kDirect1 == 0 && kUnitColumns % kDirect2 == 0 &&
                kUnitColumns % kDirect4 == 0 && kUnitColumns % kDirect8 == 0);
  static_assert(kUnitColumns % kTileColumns == 0 && kBlockRows % kTileRows == 0);
  // A tile of two rows touches no more than a whole one.
  static_assert((2 * kTileColumns + 15) / 16 * 16 <= TileSize(kTileRows, kTileColumns) &&
                TileSize(kTileRows, kTileColumns) <= kMaxTileOverhead * kTileRows * kTileColumns);
  static_assert(T::kBlockK <= kMaxBlockK && T::kBlockK % 128 == 0 && T::kBlockK % kGroup<T> == 0);
  static_assert(kTileColumns * T::kBlockK * sizeof(typename T::Element) <= kMaxPanelBytes);
  return {
      .x_element_bytes = sizeof(typename T::Element),
      .vector_elements = T::kVectorElements,
      .k_align = kGroup<T>,
      .block_k = T::kBlockK,
      .block_rows = kBlockRows,
      .value_scale = T::kValueScale,
      .direct = {{1, kDirect1, Direct<FewRows, 1, kDirect1>},
                 {2, kDirect2, Direct<FewRows, 2, kDirect2>},
                 {4, kDirect4, Direct<T, 4, kDirect4>},
                 {8, kDirect8, Direct<T, 8, kDirect8>}},
      .tile = {{1, kTileColumns, Tile<T, 1, kTileRows, kTileColumns>},
               {2, kTileColumns, Tile<T, 2, kTileRows, kTileColumns>},
               {kTileRows, kTileColumns, Tile<T, kTileRows, kTileRows, kTileColumns>}},
      .decode = DecodePanel<T, kTileColumns>,
      .panel_position = PanelPosition<T, kTileColumns>,
      .arrange = ArrangeRow<T>,
      .arranged = Arranged<T>,
      .keeps_order = T::kKeepsOrder,
  };
}

}  // namespace
}  // namespace dualfp::cpu
