// A row of logits in the shared memory of a cluster of blocks, a slice a block: its largest, sums
// over it, selection and a draw. Sums are doubles in a fixed order, so that a row's results depend
// on nothing else.

#pragma once

#include <cooperative_groups.h>

#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/sample.h"

namespace dualfp::cuda {

namespace cg = cooperative_groups;

constexpr int kSampleBlocks = 8;  // of a cluster
constexpr int kSampleThreads = 512;
constexpr int kSampleWarps = kSampleThreads / 32;
constexpr int kSegments = kSampleBlocks * kSampleWarps;  // of a row, a warp each
constexpr unsigned kAll = 0xFFFFFFFFu;
constexpr int kDigits = 8;        // of a pass of selection
constexpr int kShortList = 2048;  // candidates that selection goes on with by itself

struct SampleParams {
  const float* logits;
  int64_t logits_row;
  int vocabulary;
  int drawable;
  int slice;  // logits of a block, a multiple of kSampleWarps
  const SampleRow* rows;
  const SampleState* states;
  int32_t* tokens;
  ScoredToken* scores;
};

// Floats in the order of unsigned integers; the zeros are equal.
__device__ __forceinline__ uint32_t Ordered(float v) {
  const uint32_t bits = __float_as_uint(v + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float FromOrdered(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
}

// What the blocks of a cluster tell each other. Two sets, used by turns: one is written again only
// after everybody has passed the barrier of the other.
struct Exchange {
  double sums[2][kDigits + 1];
  double segments[2][kSampleWarps];
  unsigned long long largest[2];
};

class SampleSlices {
 public:
  __device__ SampleSlices(const SampleParams& p, float* values)
      : p_(p),
        values_(values),
        cluster_(cg::this_cluster()),
        rank_(static_cast<int>(cluster_.block_rank())),
        begin_(rank_ * p.slice),
        lane_(static_cast<int>(threadIdx.x) % 32),
        warp_(static_cast<int>(threadIdx.x) / 32),
        segment_(p.slice / kSampleWarps) {}

  __device__ int begin() const { return begin_; }
  // Of the slice's logits that are among the first `count` of the row.
  __device__ int Size(int count) const { return max(0, min(p_.slice, count - begin_)); }
  __device__ bool leads() const { return rank_ == 0; }
  __device__ void Sync() { cluster_.sync(); }

  // Takes the row's slice into shared memory, and says what Largest() would of it.
  __device__ bool Load(const float* logits, float* largest, int* token) {
    const int size = Size(p_.vocabulary);
    unsigned long long key = 0;
    const auto take = [&](int i, float v) {
      values_[i] = v;
      key = Larger(key, v, begin_ + i);
    };
    int i = threadIdx.x;
    if (reinterpret_cast<uintptr_t>(logits + begin_) % sizeof(float4) == 0) {
      const auto* vectors = reinterpret_cast<const float4*>(logits + begin_);
      for (int j = threadIdx.x; j < size / 4; j += kSampleThreads) {
        const float4 v = __ldcs(vectors + j);
        take(4 * j, v.x);
        take(4 * j + 1, v.y);
        take(4 * j + 2, v.z);
        take(4 * j + 3, v.w);
      }
      i += size / 4 * 4;
    }
    for (; i < size; i += kSampleThreads) {
      take(i, logits[begin_ + i]);
    }
    return Decode(Max(key), largest, token);
  }

  // Calls f(value, token) for this thread's logits of the first `count`.
  template <typename F>
  __device__ void ForEach(int count, const F& f) {
    const int size = Size(count);
    for (int i = threadIdx.x; i < size; i += kSampleThreads) {
      f(values_[i], begin_ + i);
    }
  }

  // Over all threads of the block, in a fixed order; everyone gets the sums.
  template <int kCount>
  __device__ void SumOfBlock(double (&v)[kCount]) {
    static_assert(kCount <= kDigits + 1);
    __shared__ double by_warp[kSampleWarps][kDigits + 1];
    __shared__ double result[kDigits + 1];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int d = 16; d > 0; d /= 2) {
        v[i] += __shfl_xor_sync(kAll, v[i], d);
      }
      if (lane_ == 0) {
        by_warp[warp_][i] = v[i];
      }
    }
    __syncthreads();
    if (threadIdx.x < kCount) {
      double sum = 0.0;
      for (int w = 0; w < kSampleWarps; ++w) {
        sum += by_warp[w][threadIdx.x];
      }
      result[threadIdx.x] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      v[i] = result[i];
    }
  }

  // The same over the cluster.
  template <int kCount>
  __device__ void Sum(double (&v)[kCount]) {
    SumOfBlock(v);
    __shared__ double result[kDigits + 1];
    Exchange& mine = exchange();
    if (threadIdx.x == 0) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        mine.sums[turn_][i] = v[i];
      }
    }
    cluster_.sync();
    if (threadIdx.x < kCount) {
      double sum = 0.0;
      for (int b = 0; b < kSampleBlocks; ++b) {
        sum += cluster_.map_shared_rank(&mine, b)->sums[turn_][threadIdx.x];
      }
      result[threadIdx.x] = sum;
    }
    turn_ ^= 1;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      v[i] = result[i];
    }
  }
  __device__ double Sum(double v) {
    double one[1] = {v};
    Sum(one);
    return one[0];
  }

  __device__ unsigned long long Max(unsigned long long v) {
    __shared__ unsigned long long by_warp[kSampleWarps];
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
      v = max(v, __shfl_xor_sync(kAll, v, d));
    }
    if (lane_ == 0) {
      by_warp[warp_] = v;
    }
    __syncthreads();
    Exchange& mine = exchange();
    if (threadIdx.x == 0) {
      for (int w = 1; w < kSampleWarps; ++w) {
        v = max(v, by_warp[w]);
      }
      mine.largest[turn_] = v;
    }
    cluster_.sync();
    v = 0;
#pragma unroll
    for (int b = 0; b < kSampleBlocks; ++b) {
      v = max(v, cluster_.map_shared_rank(&mine, b)->largest[turn_]);
    }
    turn_ ^= 1;
    return v;
  }

  // Of the first `count`: the first of the largest logits. False where one is NaN, or the largest
  // is not finite.
  __device__ bool Largest(int count, float* largest, int* token) {
    unsigned long long key = 0;
    ForEach(count, [&](float v, int t) { key = Larger(key, v, t); });
    return Decode(Max(key), largest, token);
  }

  struct Selection {
    uint32_t key;  // the largest with which what is at or above it weighs `target` at least
    double above;  // the weight above it,
    double at;     // and of those that have it
  };

  // Three bits of the key at a time: over the row as long as many have what is known of the key,
  // then every block for itself over a list of those.
  template <typename Key, typename Weight>
  __device__ Selection Select(int count, double target, const Key& key, const Weight& weight) {
    __shared__ float list[kShortList];
    Selection found{0, 0.0, 0.0};
    double sums[kDigits + 1];  // of the digits' weights; then how many there are
    const auto clear = [&] {
#pragma unroll
      for (double& sum : sums) {
        sum = 0.0;
      }
    };
    const auto add = [&](float v, int shift) {
      const uint32_t k = key(v);
      const double w = weight(v);
      if (w > 0.0 && (shift == 30 || k >> (shift + 3) == found.key)) {
        const uint32_t digit = k >> shift & (kDigits - 1);
#pragma unroll
        for (uint32_t d = 0; d < kDigits; ++d) {
          sums[d] += d == digit ? w : 0.0;
        }
        sums[kDigits] += 1.0;
      }
    };
    // The largest digit at which the target is reached; the last that anything has where sums round
    // below it.
    const auto choose = [&] {
      double above = found.above;
      int chosen = 0;
#pragma unroll
      for (int d = kDigits - 1; d >= 0; --d) {
        if (sums[d] > 0.0 && found.above < target) {
          chosen = d;
          above = found.above;
          found.above += sums[d];
          found.at = sums[d];
        }
      }
      found.above = above;
      found.key = found.key << 3 | static_cast<uint32_t>(chosen);
    };
    int shift = 30;
    bool few = false;
    for (; shift >= 0 && !few; shift -= 3) {
      clear();
      ForEach(count, [&](float v, int) { add(v, shift); });
      Sum(sums);
      choose();
      few = sums[kDigits] <= kShortList;
    }
    if (shift < 0) {
      return found;
    }
    const int listed = ForEachInOrder(
        count, [&](float v) { return weight(v) > 0.0 && key(v) >> (shift + 3) == found.key; },
        [&](float v, int, int before) {
          for (int b = 0; b < kSampleBlocks; ++b) {
            cluster_.map_shared_rank(list, b)[before] = v;
          }
        });
    cluster_.sync();
    for (; shift >= 0; shift -= 3) {
      clear();
      for (int i = threadIdx.x; i < listed; i += kSampleThreads) {
        add(list[i], shift);
      }
      SumOfBlock(sums);
      choose();
    }
    return found;
  }

  // Calls f(value&, token, how many before it pass the test) for those that pass, in groups of a
  // warp; counts are over the whole row in the order of tokens. Returns how many pass.
  template <typename Test, typename F>
  __device__ int ForEachInOrder(int count, const Test& test, const F& f) {
    const int from = warp_ * segment_;
    const int to = min(from + segment_, Size(count));
    int own = 0;
    for (int base = from; base < to; base += 32) {
      const int i = base + lane_;
      own += __popc(__ballot_sync(kAll, i < to && test(values_[i])));
    }
    const SegmentSums sums = Segments(own);
    const int segment = rank_ * kSampleWarps + warp_;
    int passed = static_cast<int>(sums.through[segment] - sums.own[segment]);
    for (int base = from; base < to; base += 32) {
      const int i = base + lane_;
      const bool passes = i < to && test(values_[i]);
      const unsigned mask = __ballot_sync(kAll, passes);
      if (passes) {
        f(values_[i], begin_ + i, passed + __popc(mask & ((1u << lane_) - 1)));
      }
      passed += __popc(mask);
    }
    __syncthreads();
    return static_cast<int>(sums.through[kSegments - 1]);
  }

  // The first token, by weights, at which their running sum passes uniform * (their sum).
  __device__ int Draw(int count, double uniform) {
    __shared__ int drawn;
    __shared__ int crossing;
    __shared__ int last_possible;
    const int from = warp_ * segment_;
    const int to = min(from + segment_, Size(count));
    double own = 0.0;
    for (int i = from + lane_; i < to; i += 32) {
      own += values_[i];
    }
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
      own += __shfl_xor_sync(kAll, own, d);
    }
    if (threadIdx.x == 0) {
      drawn = -1;
      crossing = kSegments;
      last_possible = -1;
    }
    const SegmentSums sums = Segments(own);
    const double target = uniform * sums.through[kSegments - 1];
    if (threadIdx.x < kSegments && sums.own[threadIdx.x] > 0.0) {
      atomicMax(&last_possible, static_cast<int>(threadIdx.x));
      if (sums.through[threadIdx.x] > target) {
        atomicMin(&crossing, static_cast<int>(threadIdx.x));
      }
    }
    __syncthreads();
    // The last with any weight, should rounding leave the target unreached.
    const int segment = crossing < kSegments ? crossing : last_possible;
    double running = segment < 0 ? 0.0 : sums.through[segment] - sums.own[segment];
    if (segment == rank_ * kSampleWarps + warp_) {
      int last = -1;
      for (int base = from; base < to; base += 32) {
        const int i = base + lane_;
        const float w = i < to ? values_[i] : 0.0f;
        double through = w;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
          const double lower = __shfl_up_sync(kAll, through, d);
          through += lane_ >= d ? lower : 0.0;
        }
        const unsigned possible = __ballot_sync(kAll, w > 0.0f);
        const unsigned passed = __ballot_sync(kAll, w > 0.0f && running + through > target);
        if (passed != 0) {
          last = base + __ffs(static_cast<int>(passed)) - 1;
          break;
        }
        if (possible != 0) {
          last = base + 31 - __clz(static_cast<int>(possible));
        }
        running += __shfl_sync(kAll, through, 31);
      }
      if (lane_ == 0) {
        drawn = begin_ + last;
      }
    }
    __syncthreads();
    // One block knows; token + 1, since nothing is 0.
    return static_cast<int>(Max(static_cast<unsigned long long>(drawn + 1))) - 1;
  }

 private:
  __device__ Exchange& exchange() {
    __shared__ Exchange exchange;
    return exchange;
  }

  // Of all segments in order: each one's value, and those up to it.
  struct SegmentSums {
    const double* own;
    const double* through;
  };
  __device__ SegmentSums Segments(double own) {
    __shared__ double all[kSegments];
    __shared__ double through[kSegments];
    Exchange& mine = exchange();
    if (lane_ == 0) {
      mine.segments[turn_][warp_] = own;
    }
    cluster_.sync();
    if (threadIdx.x < kSegments) {
      all[threadIdx.x] =
          cluster_.map_shared_rank(&mine, static_cast<int>(threadIdx.x) / kSampleWarps)
              ->segments[turn_][threadIdx.x % kSampleWarps];
    }
    turn_ ^= 1;
    __syncthreads();
    if (warp_ == 0) {
      constexpr int kOfLane = kSegments / 32;
      double sums[kOfLane];
      double sum = 0.0;
#pragma unroll
      for (int i = 0; i < kOfLane; ++i) {
        sum += all[lane_ * kOfLane + i];
        sums[i] = sum;
      }
      double below = sum;
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const double lower = __shfl_up_sync(kAll, below, d);
        below += lane_ >= d ? lower : 0.0;
      }
      below -= sum;
#pragma unroll
      for (int i = 0; i < kOfLane; ++i) {
        through[lane_ * kOfLane + i] = below + sums[i];
      }
    }
    __syncthreads();
    return {all, through};
  }

  static __device__ unsigned long long Larger(unsigned long long key, float v, int token) {
    const unsigned long long own =
        static_cast<unsigned long long>(Ordered(v)) << 32 | static_cast<uint32_t>(~token);
    return isnan(v) ? kNan : max(key, own);
  }
  // What Larger() of a row means, as Largest() returns it.
  static __device__ bool Decode(unsigned long long key, float* largest, int* token) {
    if (key == kNan || key == 0) {
      return false;
    }
    *largest = FromOrdered(static_cast<uint32_t>(key >> 32));
    *token = static_cast<int>(~static_cast<uint32_t>(key));
    return isfinite(*largest);
  }

  static constexpr unsigned long long kNan = ~0ull;

  const SampleParams& p_;
  float* values_;
  cg::cluster_group cluster_;
  int rank_;
  int begin_;
  int lane_;
  int warp_;
  int segment_;
  int turn_ = 0;
};

}  // namespace dualfp::cuda
