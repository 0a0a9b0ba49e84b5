// Nested12 weights on the GPU (numeric/nested12.h): where their bits lie, and split and merge at
// the speed of memory.
//
// Upper plane, U8 [N, K]: as a nested weight's, permuted inside each aligned 16 of K (planes.h), so
// that FP8 kernels take it as it is.
//
// Nibbles, U8 [ceil(K / 128), N, 64]: 128 columns of a row are 64 bytes, 16 for each 32 columns. Of
// these, byte 4t + j holds in its low half the nibble of column {2t, 2t + 1, 2t + 8, 2t + 9}[j] and
// in its high half that of the column 16 further on, so that one 16-byte row of ldmatrix feeds two
// k16 steps. Columns beyond K hold the code of zero under an upper byte of zero.
//
// Row scales, F32 [N]: 2^-shift, which sums are multiplied by (2^-(8 + shift) in FP8 mode).
//
// Weights below 2^-14 (of v = w * 2^shift) that the planes only round are listed with what these
// lack, by 64 rows and in order of K, in batches of 32 places: TinyWeight. ceil(N / 64) batches
// begin the lists of 64 rows each, further ones go on with lists that are longer.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <vector>

namespace dualfp::cuda {

constexpr int kNibbleBlock = 128;  // columns whose nibbles lie together

constexpr int64_t NibblePlaneBytes(int64_t n, int64_t k) {
  return (k + kNibbleBlock - 1) / kNibbleBlock * n * (kNibbleBlock / 2);
}

// A place of a batch. The last place of each holds no weight: its `k` is the number of the batch
// that goes on with the list, or kNoTinyWeight; so is that of places without a weight.
struct alignas(8) TinyWeight {
  uint32_t k;
  uint16_t row;   // of the 64
  uint16_t bf16;  // v less the planes' value: exact

  friend constexpr bool operator==(const TinyWeight&, const TinyWeight&) = default;
};
constexpr int kTinyBatch = 32;  // places
constexpr int kTinyRows = 64;   // that share a list
constexpr uint32_t kNoTinyWeight = 0x7fffffff;

// The batches of a weight of `n` rows by `k` columns, whose tiny weights have these indices (row *
// K
// + column, ascending) and lack these BF16 patterns.
std::vector<TinyWeight> MakeTinyBatches(int64_t n, int64_t k, std::span<const int64_t> index,
                                        std::span<const uint16_t> bf16);

// What SplitNested12 saw; on the device, zeroed by the caller. Calls add to it.
struct Nested12Counts {
  unsigned long long tiny;        // weights to be listed
  unsigned long long non_finite;  // an error for the caller to report
  unsigned long long not_before;  // where any is: the complement of the first one's index
};

struct TinySink {
  Nested12Counts* counts = nullptr;
  int64_t* index = nullptr;  // row * K + column, in no order
  uint16_t* bf16 = nullptr;  // as TinyWeight has it
  int64_t capacity = 0;      // what exceeds it is counted only
};

// w BF16 [N, K] -> planes and row scales. K is a multiple of 16; pointers are aligned to 16 bytes.
// `first_row`: of all weights the sink and `nibbles` are about, `rows` of them in all, for a weight
// that is split in pieces; the other pointers are the piece's own.
void SplitNested12(const void* w, int64_t n, int64_t k, void* upper, void* nibbles,
                   float* row_scale, const TinySink& sink, cudaStream_t stream,
                   int64_t first_row = 0, int64_t rows = 0);

// The inverse, exact with the weight's batches (nullptr: without its tiny weights).
void MergeNested12(const void* upper, const void* nibbles, const float* row_scale,
                   const TinyWeight* tiny, int64_t n, int64_t k, void* w, cudaStream_t stream);

// Nibbles U8 [N, ceil(K / 2)] as disk and CPU have them, even columns in low halves -> as GPU
// memory has them. Not in place; K is a multiple of 16.
void NibblesToDevice(const void* in, int64_t n, int64_t k, void* out, cudaStream_t stream);

}  // namespace dualfp::cuda
