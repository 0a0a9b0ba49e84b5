// The sampler: a cluster of blocks takes a row, whose logits it holds in shared memory, a slice a
// block. Weights are the CPU's bits (exp.h) and sums are doubles in a fixed order, so that equal
// logits give the CPU's tokens.

#include <cooperative_groups.h>

#include <limits>

#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/cuda/ops/launch.h"
#include "dualfp/kernels/cuda/ops/ops.h"
#include "dualfp/kernels/exp.h"
#include "dualfp/kernels/random.h"

namespace dualfp::cuda {
namespace {

namespace cg = cooperative_groups;

constexpr int kBlocks = 8;  // of a cluster
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kSegments = kBlocks * kWarps;  // of a row, a warp each
constexpr unsigned kAll = 0xFFFFFFFFu;
constexpr int kDigits = 8;  // of a pass of selection

struct SampleParams {
  const float* logits;
  int64_t logits_row;
  int vocabulary;
  int drawable;
  int slice;  // logits of a block, a multiple of kWarps
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

// What the blocks of a cluster tell each other. Two sets, used by turns: one is written again only
// after everybody has passed the barrier of the other.
struct Exchange {
  double sums[2][kDigits];
  double segments[2][kWarps];
  unsigned long long largest[2];
};

class Row {
 public:
  __device__ Row(const SampleParams& p, float* values)
      : p_(p),
        values_(values),
        cluster_(cg::this_cluster()),
        rank_(static_cast<int>(cluster_.block_rank())),
        begin_(rank_ * p.slice),
        lane_(static_cast<int>(threadIdx.x) % 32),
        warp_(static_cast<int>(threadIdx.x) / 32),
        segment_(p.slice / kWarps) {}

  __device__ int begin() const { return begin_; }
  // Of the slice's logits that are among the first `count` of the row.
  __device__ int Size(int count) const { return max(0, min(p_.slice, count - begin_)); }
  __device__ bool leads() const { return rank_ == 0; }
  __device__ void Sync() { cluster_.sync(); }

  __device__ void Load(const float* logits) {
    const int size = Size(p_.vocabulary);
    for (int i = threadIdx.x; i < size; i += kThreads) {
      values_[i] = logits[begin_ + i];
    }
    __syncthreads();
  }

  // Calls f(value, token) for this thread's logits of the first `count`.
  template <typename F>
  __device__ void ForEach(int count, const F& f) {
    const int size = Size(count);
    for (int i = threadIdx.x; i < size; i += kThreads) {
      f(values_[i], begin_ + i);
    }
  }

  // Over all threads of the cluster, in a fixed order; everyone gets the sums.
  template <int kCount>
  __device__ void Sum(double (&v)[kCount]) {
    __shared__ double by_warp[kWarps][kDigits];
    __shared__ double result[kDigits];
    static_assert(kCount <= kDigits);
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
    Exchange& mine = exchange();
    if (threadIdx.x < kCount) {
      double sum = 0.0;
      for (int w = 0; w < kWarps; ++w) {
        sum += by_warp[w][threadIdx.x];
      }
      mine.sums[turn_][threadIdx.x] = sum;
    }
    cluster_.sync();
    if (threadIdx.x < kCount) {
      double sum = 0.0;
      for (int b = 0; b < kBlocks; ++b) {
        sum += cluster_.map_shared_rank(&mine, b)->sums[turn_][threadIdx.x];
      }
      result[threadIdx.x] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      v[i] = result[i];
    }
    turn_ ^= 1;
    __syncthreads();
  }
  __device__ double Sum(double v) {
    double one[1] = {v};
    Sum(one);
    return one[0];
  }

  __device__ unsigned long long Max(unsigned long long v) {
    __shared__ unsigned long long by_warp[kWarps];
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
      for (int w = 1; w < kWarps; ++w) {
        v = max(v, by_warp[w]);
      }
      mine.largest[turn_] = v;
    }
    cluster_.sync();
    v = 0;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      v = max(v, cluster_.map_shared_rank(&mine, b)->largest[turn_]);
    }
    turn_ ^= 1;
    return v;
  }

  // Of the first `count`: the first of the largest logits. False where one is NaN, or the largest
  // is not finite.
  __device__ bool Largest(int count, float* largest, int* token) {
    constexpr unsigned long long kNan = ~0ull;
    unsigned long long key = 0;
    ForEach(count, [&](float v, int t) {
      const unsigned long long own =
          static_cast<unsigned long long>(Ordered(v)) << 32 | static_cast<uint32_t>(~t);
      key = isnan(v) ? kNan : max(key, own);
    });
    key = Max(key);
    if (key == kNan || key == 0) {
      return false;
    }
    const auto ordered = static_cast<uint32_t>(key >> 32);
    *largest = __uint_as_float((ordered & 0x80000000u) != 0 ? ordered ^ 0x80000000u : ~ordered);
    *token = static_cast<int>(~static_cast<uint32_t>(key));
    return isfinite(*largest);
  }

  struct Selection {
    uint32_t key;  // the largest with which what is at or above it weighs `target` at least
    double above;  // the weight above it,
    double at;     // and of those that have it
  };

  // Three bits of the key at a time.
  template <typename Key, typename Weight>
  __device__ Selection Select(int count, double target, const Key& key, const Weight& weight) {
    Selection found{0, 0.0, 0.0};
    for (int shift = 30; shift >= 0; shift -= 3) {
      double sums[kDigits] = {};
      ForEach(count, [&](float v, int) {
        const uint32_t k = key(v);
        if (shift == 30 || k >> (shift + 3) == found.key) {
          const uint32_t digit = k >> shift & (kDigits - 1);
          const double w = weight(v);
#pragma unroll
          for (uint32_t d = 0; d < kDigits; ++d) {
            sums[d] += d == digit ? w : 0.0;
          }
        }
      });
      Sum(sums);
      double above = found.above;
      int chosen = 0;
#pragma unroll
      for (int d = kDigits - 1; d >= 0; --d) {
        if (sums[d] > 0.0 && found.above < target) {
          // So far the last digit that anything has; it stands where sums round below the target.
          chosen = d;
          above = found.above;
          found.above += sums[d];
          found.at = sums[d];
        }
      }
      found.above = above;
      found.key = found.key << 3 | static_cast<uint32_t>(chosen);
    }
    return found;
  }

  // Calls f(value&, token, how many before it pass the test) for those that pass, in groups of a
  // warp; counts are over the whole row in the order of tokens.
  template <typename Test, typename F>
  __device__ void ForEachInOrder(int count, const Test& test, const F& f) {
    const int from = warp_ * segment_;
    const int to = min(from + segment_, Size(count));
    int own = 0;
    for (int base = from; base < to; base += 32) {
      const int i = base + lane_;
      own += __popc(__ballot_sync(kAll, i < to && test(values_[i])));
    }
    const double* before = Segments(own);
    int passed = 0;
    for (int s = 0; s < rank_ * kWarps + warp_; ++s) {
      passed += static_cast<int>(before[s]);
    }
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
  }

  // The first token, by weights, at which their running sum passes uniform * (their sum).
  __device__ int Draw(int count, double uniform) {
    __shared__ int drawn;
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
    const double* sums = Segments(own);
    double total = 0.0;
    for (int s = 0; s < kSegments; ++s) {
      total += sums[s];
    }
    const double target = uniform * total;
    double below = 0.0;
    double running = 0.0;
    int segment = -1;
    for (int s = 0; s < kSegments && below <= target; ++s) {
      if (sums[s] > 0.0) {
        segment = s;  // the last with any weight, should rounding leave the target unreached
        running = below;
        below += sums[s];
      }
    }
    if (threadIdx.x == 0) {
      drawn = -1;
    }
    __syncthreads();
    if (segment == rank_ * kWarps + warp_) {
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

  // A value of each warp, of all segments in order.
  __device__ const double* Segments(double own) {
    __shared__ double all[kSegments];
    Exchange& mine = exchange();
    if (lane_ == 0) {
      mine.segments[turn_][warp_] = own;
    }
    cluster_.sync();
    if (threadIdx.x < kSegments) {
      all[threadIdx.x] = cluster_.map_shared_rank(&mine, static_cast<int>(threadIdx.x) / kWarps)
                             ->segments[turn_][threadIdx.x % kWarps];
    }
    turn_ ^= 1;
    __syncthreads();
    return all;
  }

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

// Bans, biases and penalties, in the order of sample.h.
__device__ void Process(const SampleParams& p, const SampleRow& sample, const SampleState& state,
                        Row& row, float* values) {
  const int begin = row.begin();
  const int size = row.Size(p.vocabulary);
  for (int64_t i = threadIdx.x; sample.ban != 0 && i < state.num_banned; i += kThreads) {
    const int at = state.banned[i] - begin;
    if (0 <= at && at < size) {
      values[at] = -INFINITY;
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < state.num_bias; i += kThreads) {
    const int at = state.bias[i].token - begin;
    if (0 <= at && at < size) {
      values[at] += state.bias[i].bias;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; state.counts != nullptr && i < size; i += kThreads) {
    const int32_t seen = state.counts[begin + i];
    if (seen == 0) {
      continue;
    }
    float logit = values[i];
    logit = logit > 0.0f ? logit / sample.repetition_penalty : logit * sample.repetition_penalty;
    if (const int32_t count = seen & ~kInPrompt; count > 0) {
      logit -= sample.frequency_penalty * static_cast<float>(count);
      logit -= sample.presence_penalty;
    }
    values[i] = logit;
  }
  __syncthreads();
}

// Turns logits into weights, drops what min_p, top_k and top_p do, and draws.
__device__ int Draw(const SampleParams& p, const SampleRow& sample, float largest, Row& row) {
  const int count = p.drawable;
  float lowest = -INFINITY;
  if (sample.top_k > 0 && sample.top_k < count) {
    const auto selected = row.Select(
        count, static_cast<double>(sample.top_k), [](float v) { return Ordered(v); },
        [](float) { return 1.0; });
    lowest = __uint_as_float((selected.key & 0x80000000u) != 0 ? selected.key ^ 0x80000000u
                                                               : ~selected.key);
  }
  const float scale = 1.0f / sample.temperature;
  double total = 0.0;
  row.ForEach(count, [&](float& v, int) {
    const float weight = ExpNonPositive((v - largest) * scale);
    v = v >= lowest && weight >= sample.min_p ? weight : 0.0f;
    total += v;
  });
  __syncthreads();
  if (sample.top_p < 1.0f) {
    const double target = static_cast<double>(sample.top_p) * row.Sum(total);
    const auto selected = row.Select(
        count, target, [](float v) { return __float_as_uint(v); },
        [](float v) { return static_cast<double>(v); });
    const float last = __uint_as_float(selected.key);
    row.ForEach(count, [&](float& v, int) { v = v >= last ? v : 0.0f; });
    __syncthreads();
    // Of equals the first ones stay, as many as it takes.
    if (selected.above + selected.at - last >= target && last > 0.0f) {
      const double wanted = ceil((target - selected.above) / static_cast<double>(last));
      row.ForEachInOrder(
          count, [last](float v) { return v == last; },
          [wanted](float& v, int, int before) {
            if (before > 0 && before >= wanted) {
              v = 0.0f;
            }
          });
    }
  }
  return row.Draw(count, UniformDraw(sample.seed, sample.choice, sample.position));
}

// Of the raw logits, which `row` holds.
__device__ void Score(const SampleParams& p, const float* logits, float largest, int chosen,
                      Row& row, ScoredToken* scores, int count) {
  __shared__ int cursor;
  if (threadIdx.x == 0) {
    cursor = 0;
  }
  const float own = logits[chosen];
  double sums[2] = {0.0, 0.0};
  row.ForEach(p.vocabulary, [&](float v, int) {
    sums[0] += ExpNonPositive(v - largest);
    sums[1] += v >= own ? 1.0 : 0.0;
  });
  row.Sum(sums);
  const double log_sum = largest + log(sums[0]);
  const auto logprob = [&](int token) { return static_cast<float>(logits[token] - log_sum); };
  if (row.leads() && threadIdx.x == 0) {
    scores[0] = {chosen, logprob(chosen), static_cast<int32_t>(sums[1])};
  }
  const int tops = count - 1;
  if (tops <= 0) {
    return;
  }
  const auto selected = row.Select(
      p.vocabulary, tops, [](float v) { return Ordered(v); }, [](float) { return 1.0; });
  const int above = static_cast<int>(selected.above);
  // First in any order: those above one after the other, then equals by token.
  int* const shared_cursor = cg::this_cluster().map_shared_rank(&cursor, 0);
  row.ForEachInOrder(
      p.vocabulary, [&](float v) { return Ordered(v) >= selected.key; },
      [&](float v, int token, int) {
        if (Ordered(v) > selected.key) {
          scores[1 + atomicAdd(shared_cursor, 1)].token_id = token;
        }
      });
  row.ForEachInOrder(
      p.vocabulary, [&](float v) { return Ordered(v) == selected.key; },
      [&](float, int token, int before) {
        if (above + before < tops) {
          scores[1 + above + before].token_id = token;
        }
      });
  __threadfence();
  row.Sync();
  if (!row.leads()) {
    return;
  }
  // Then by logit and token. A place is known before anything moves, and moves by way of the
  // fields that are written last.
  ScoredToken* const top = scores + 1;
  for (int i = threadIdx.x; i < tops; i += kThreads) {
    const int token = __ldcg(&top[i].token_id);
    const float logit = logits[token];
    int place = 0;
    for (int j = 0; j < tops; ++j) {
      const int other = __ldcg(&top[j].token_id);
      place += logits[other] > logit || (logits[other] == logit && other < token) ? 1 : 0;
    }
    top[i].rank = place;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < tops; i += kThreads) {
    for (int j = 0; j < tops; ++j) {
      if (top[j].rank == i) {
        top[i].logprob = __int_as_float(__ldcg(&top[j].token_id));
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < tops; i += kThreads) {
    const int token = __float_as_int(top[i].logprob);
    top[i] = {token, logprob(token), i + 1};
  }
}

__global__ void __launch_bounds__(kThreads) SampleRows(const __grid_constant__ SampleParams p) {
  extern __shared__ float values[];
  GridLaunchDependents();
  GridWaitForPrevious();
  const int index = ClusterIndex();
  const SampleRow sample = p.rows[index];
  const float* logits = p.logits + sample.logit_row * p.logits_row;
  Row row(p, values);
  row.Load(logits);
  float largest = 0.0f;
  int first = 0;
  bool usable = row.Largest(p.vocabulary, &largest, &first);
  int token = sample.token;
  bool raw = true;  // whether `row` still holds the logits as they are
  if (usable && token < 0) {
    const SampleState* state = sample.state < 0 ? nullptr : p.states + sample.state;
    if (state != nullptr) {
      Process(p, sample, *state, row, values);
      raw = false;
    }
    float drawn_largest = largest;
    token = first;
    if (!raw || p.drawable < p.vocabulary) {
      usable = row.Largest(p.drawable, &drawn_largest, &token);
    }
    if (usable && sample.temperature >= kGreedyTemperature) {
      token = Draw(p, sample, drawn_largest, row);
      raw = false;
    }
  }
  if (usable && sample.num_scores > 0) {
    if (!raw) {
      __syncthreads();
      row.Load(logits);
    }
    Score(p, logits, largest, token, row, p.scores + sample.score_begin, sample.num_scores);
  }
  if (row.leads() && threadIdx.x == 0) {
    p.tokens[index] = usable ? token : kNoToken;
  }
  row.Sync();  // others may still read this block's shared memory
}

__global__ void __launch_bounds__(kThreads)
    Append(const SampleRow* rows, const SampleState* states, const int32_t* token_ids, int count) {
  GridLaunchDependents();
  GridWaitForPrevious();
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < count && rows[i].append_row >= 0 && states[rows[i].state].counts != nullptr) {
    atomicAdd(states[rows[i].state].counts + token_ids[rows[i].append_row], 1);
  }
}

}  // namespace

void Sample(const Context& context, const SampleArgs& args) {
  const auto count = static_cast<unsigned>(args.rows.size());
  const auto vocabulary = static_cast<int>(args.logits.shape[1]);
  constexpr int kMostSlice = 48 << 10;  // 192 KB of shared memory
  const int slice = (vocabulary + kBlocks * kWarps - 1) / (kBlocks * kWarps) * kWarps;
  Check(slice <= kMostSlice, ErrorCode::kUnsupported, "sample: a vocabulary of ", vocabulary,
        " tokens, on a GPU ", kBlocks * kMostSlice, " at most");
  LaunchOp("sample", context,
           {.grid = dim3((count + kThreads - 1) / kThreads), .threads = kThreads}, Append,
           args.rows.data(), args.states.data(), args.token_ids.as<int32_t>(),
           static_cast<int>(count));
  const SampleParams params{
      .logits = args.logits.as<float>(),
      .logits_row = args.logits.strides[0],
      .vocabulary = vocabulary,
      .drawable = args.drawable == 0 ? vocabulary : static_cast<int>(args.drawable),
      .slice = slice,
      .rows = args.rows.data(),
      .states = args.states.data(),
      .tokens = args.tokens.data(),
      .scores = args.scores.data()};
  LaunchOp("sample", context,
           {.grid = dim3(count * kBlocks),
            .threads = kThreads,
            .shared_bytes = slice * sizeof(float),
            .cluster = kBlocks},
           SampleRows, params);
}

}  // namespace dualfp::cuda
