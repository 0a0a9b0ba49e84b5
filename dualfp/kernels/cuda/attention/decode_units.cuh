// How the contexts of a step of decodes are cut into pieces, and which block takes which.

#pragma once

#include "dualfp/kernels/cuda/attention/attention.h"

namespace dualfp::cuda {

constexpr int kDecodeWarps = 4;
constexpr int kDecodeThreads = 32 * kDecodeWarps;
constexpr int kDecodeBlocksPerSm = 2;

// How contexts are cut. By the whole step: as lets the blocks of a full GPU end together, into
// pieces of kLeastPages at least, each of which costs a merge as long as kMergePages.
// Batch-invariant: into at most kMostFixedPieces, by the context's length.
constexpr int kLeastPages = 16;
constexpr int kMergePages = 8;
constexpr int kMostRounds = 4;    // of pieces, that a block goes through
constexpr int kMostBlocks = 264;  // that share the work: an H200's
constexpr int kMostFixedPieces = 16;

// What a sequence asks of a step.
struct DecodeWork {
  int rows;
  int length;      // of the context
  int first_page;  // that any row sees
  int pages;       // from there on; 0: not a decode
  int tiles;       // of queries

  __device__ DecodeWork(const AttentionParams& p, int rows_in, int length_in)
      : rows(rows_in), length(length_in), tiles(QueryTiles(rows * p.group)) {
    constexpr int kPage = kKvBlockSize;
    first_page = p.window > 0 ? max(0, length - rows - p.window + 1) / kPage : 0;
    pages = rows > 0 && IsDecode(rows, p.group) ? (length + kPage - 1) / kPage - first_page : 0;
  }
  __device__ int Pieces(int pages_a_piece) const {
    return pages_a_piece > 0 ? (pages + pages_a_piece - 1) / pages_a_piece
                             : min(kMostFixedPieces, (pages + kLeastPages - 1) / kLeastPages);
  }
};

// A piece of a sequence's context for one kv head and one tile of its queries.
struct Piece {
  int sequence;
  int kv_head;
  int tile;
  int split;       // which of
  int splits;      // the sequence's
  int first_unit;  // of split 0; that of the next split is `stride` further on
  int stride;
  int page;  // blocks [page, page_end) of the context
  int page_end;
  int rows;
  int length;
};

// Of all threads' values; `shared` holds kDecodeWarps of them.
template <int kCount>
__device__ __forceinline__ void BlockCombine(int (&v)[kCount],
                                             int (&shared)[kDecodeWarps][kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    v[i] = __reduce_add_sync(0xFFFFFFFFu, v[i]);
    if (threadIdx.x % 32 == 0) {
      shared[threadIdx.x / 32][i] = v[i];
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    v[i] = 0;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      v[i] += shared[w][i];
    }
  }
}

// Ints of shared memory that DecodeUnits wants.
constexpr int DecodeUnitsInts(int sequences) { return 3 * sequences + 1; }

// Units of work of a step: pieces in an order that every block computes for itself.
class DecodeUnits {
 public:
  // `shared` is the block's, DecodeUnitsInts(). By all threads.
  __device__ DecodeUnits(const AttentionParams& p, int* shared)
      : p_(p), rows_(shared), lengths_(shared + p.sequences), first_(shared + 2 * p.sequences) {
    for (int s = threadIdx.x; s < p.sequences; s += kDecodeThreads) {
      rows_[s] = p.query_start[s + 1] - p.query_start[s];
      lengths_[s] = p.context_length[s];
    }
    if (!p.batch_invariant) {
      pages_a_piece_ = ChoosePages();
    }
    __shared__ int sums[kDecodeWarps];
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    int before = 0;
    for (int base = 0; base < p.sequences; base += kDecodeThreads) {
      const int s = base + static_cast<int>(threadIdx.x);
      int through = 0;
      if (s < p.sequences) {
        const DecodeWork work = WorkOf(s);
        through = work.Pieces(pages_a_piece_) * work.tiles;
      }
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const int below = __shfl_up_sync(0xFFFFFFFFu, through, d);
        through += lane >= d ? below : 0;
      }
      __syncthreads();
      if (lane == 31) {
        sums[warp] = through;
      }
      __syncthreads();
      int all = 0;
#pragma unroll
      for (int w = 0; w < kDecodeWarps; ++w) {
        through += w < warp ? sums[w] : 0;
        all += sums[w];
      }
      if (s < p.sequences) {
        first_[s + 1] = before + through;
      }
      before += all;
    }
    if (threadIdx.x == 0) {
      first_[0] = 0;
    }
    __syncthreads();
    count_ = before * p.kv_heads;
  }

  __device__ int count() const { return count_; }

  __device__ Piece At(int unit) const {
    Piece piece;
    const int within = unit / p_.kv_heads;
    piece.kv_head = unit % p_.kv_heads;
    int s = 0;  // the last whose pieces begin at or before this
    for (int end = p_.sequences; end - s > 1;) {
      const int middle = (s + end) / 2;
      (first_[middle] <= within ? s : end) = middle;
    }
    piece.sequence = s;
    const DecodeWork work = WorkOf(s);
    const int index = within - first_[s];
    piece.tile = index % work.tiles;
    piece.split = index / work.tiles;
    piece.splits = work.Pieces(pages_a_piece_);
    piece.stride = work.tiles * p_.kv_heads;
    piece.first_unit = unit - piece.split * piece.stride;
    // Even shares.
    const int share = (work.pages + piece.splits - 1) / piece.splits;
    piece.page = work.first_page + piece.split * share;
    piece.page_end = work.first_page + min(work.pages, (piece.split + 1) * share);
    piece.rows = work.rows;
    piece.length = work.length;
    return piece;
  }

 private:
  __device__ DecodeWork WorkOf(int s) const { return {p_, rows_[s], lengths_[s]}; }

  // The pages of a piece with which the blocks are through soonest, among those that share the
  // longest context or all contexts evenly in up to kMostRounds pieces a block.
  __device__ int ChoosePages() const {
    constexpr int kChoices = 2 * kMostRounds;
    __shared__ int by_warp[kDecodeWarps][kChoices];
    __shared__ int longest_of_warp[kDecodeWarps];
    const int blocks = min(kMostBlocks, static_cast<int>(gridDim.x));
    int sums[kChoices] = {};  // lists of queries, and their pages
    int longest = 0;
    for (int s = threadIdx.x; s < p_.sequences; s += kDecodeThreads) {
      const DecodeWork work = WorkOf(s);
      const int lists = work.pages > 0 ? work.tiles * p_.kv_heads : 0;
      sums[0] += lists;
      sums[1] += lists * work.pages;
      longest = max(longest, work.pages);
    }
    longest = __reduce_max_sync(0xFFFFFFFFu, longest);
    if (threadIdx.x % 32 == 0) {
      longest_of_warp[threadIdx.x / 32] = longest;
    }
    BlockCombine(sums, by_warp);
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      longest = max(longest, longest_of_warp[w]);
    }
    const int lists = max(sums[0], 1);
    const int pages = sums[1];
    int choice[kChoices];
#pragma unroll
    for (int i = 0; i < kMostRounds; ++i) {
      const int places = (i + 1) * blocks;
      const int parts = max(1, places / lists);
      choice[2 * i] = max(kLeastPages, (longest + parts - 1) / parts);
      choice[2 * i + 1] = max(kLeastPages, (pages + places - 1) / places);
    }
    int units[kChoices] = {};
    for (int s = threadIdx.x; s < p_.sequences; s += kDecodeThreads) {
      const DecodeWork work = WorkOf(s);
#pragma unroll
      for (int i = 0; i < kChoices; ++i) {
        units[i] += work.Pieces(choice[i]) * work.tiles * p_.kv_heads;
      }
    }
    __syncthreads();  // the sums have been read
    BlockCombine(units, by_warp);
    int best = choice[0];
    int least = 1 << 30;
#pragma unroll
    for (int i = 0; i < kChoices; ++i) {
      const int cost = (units[i] + blocks - 1) / blocks * (min(choice[i], longest) + kMergePages);
      if (cost < least) {
        least = cost;
        best = choice[i];
      }
    }
    return best;
  }

  const AttentionParams& p_;
  int* rows_;
  int* lengths_;
  int* first_;             // [sequences + 1]
  int pages_a_piece_ = 0;  // 0: by the context's length
  int count_ = 0;
};

}  // namespace dualfp::cuda
