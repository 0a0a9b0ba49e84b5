// The sampler: a cluster of blocks takes a row, whose logits it holds in shared memory, a slice a
// block. Weights are the CPU's bits (exp.h), so that equal logits give the CPU's tokens.

#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/cuda/ops/launch.h"
#include "dualfp/kernels/cuda/ops/ops.h"
#include "dualfp/kernels/cuda/ops/sample_slices.cuh"
#include "dualfp/kernels/exp.h"
#include "dualfp/kernels/random.h"

namespace dualfp::cuda {
namespace {

// Bans, biases and penalties, in the order of sample.h.
__device__ void Process(const SampleParams& p, const SampleRow& sample, const SampleState& state,
                        SampleSlices& row, float* values) {
  const int begin = row.begin();
  const int size = row.Size(p.vocabulary);
  for (int64_t i = threadIdx.x; sample.ban != 0 && i < state.num_banned; i += kSampleThreads) {
    const int at = state.banned[i] - begin;
    if (0 <= at && at < size) {
      values[at] = -INFINITY;
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < state.num_bias; i += kSampleThreads) {
    const int at = state.bias[i].token - begin;
    if (0 <= at && at < size) {
      values[at] += state.bias[i].bias;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; state.counts != nullptr && i < size; i += kSampleThreads) {
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
__device__ int Draw(const SampleParams& p, const SampleRow& sample, float largest,
                    SampleSlices& row) {
  const int count = p.drawable;
  float lowest = -INFINITY;
  if (sample.top_k > 0 && sample.top_k < count) {
    const auto selected = row.Select(
        count, static_cast<double>(sample.top_k), [](float v) { return Ordered(v); },
        [](float) { return 1.0; });
    lowest = FromOrdered(selected.key);
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
                      SampleSlices& row, ScoredToken* scores, int count) {
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
  for (int i = threadIdx.x; i < tops; i += kSampleThreads) {
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
  for (int i = threadIdx.x; i < tops; i += kSampleThreads) {
    for (int j = 0; j < tops; ++j) {
      if (top[j].rank == i) {
        top[i].logprob = __int_as_float(__ldcg(&top[j].token_id));
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < tops; i += kSampleThreads) {
    const int token = __float_as_int(top[i].logprob);
    top[i] = {token, logprob(token), i + 1};
  }
}

__global__ void __launch_bounds__(kSampleThreads)
    SampleRows(const __grid_constant__ SampleParams p) {
  extern __shared__ float values[];
  GridLaunchDependents();
  GridWaitForPrevious();
  const int index = ClusterIndex();
  const SampleRow sample = p.rows[index];
  const float* logits = p.logits + sample.logit_row * p.logits_row;
  SampleSlices row(p, values);
  float largest = 0.0f;
  int first = 0;
  bool usable = row.Load(logits, &largest, &first);
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
      row.Load(logits, &largest, &first);
    }
    Score(p, logits, largest, token, row, p.scores + sample.score_begin, sample.num_scores);
  }
  if (row.leads() && threadIdx.x == 0) {
    p.tokens[index] = usable ? token : kNoToken;
  }
  row.Sync();  // others may still read this block's shared memory
}

__global__ void __launch_bounds__(kSampleThreads)
    Append(const SampleRow* rows, const SampleState* states, const int32_t* token_ids, int count) {
  GridLaunchDependents();
  GridWaitForPrevious();
  const int i = blockIdx.x * kSampleThreads + threadIdx.x;
  if (i < count && rows[i].append_row >= 0 && states[rows[i].state].counts != nullptr) {
    atomicAdd(states[rows[i].state].counts + token_ids[rows[i].append_row], 1);
  }
}

}  // namespace

void Sample(const Context& context, const SampleArgs& args) {
  const auto count = static_cast<unsigned>(args.rows.size());
  const auto vocabulary = static_cast<int>(args.logits.shape[1]);
  constexpr int kMostSlice = 48 << 10;  // 192 KB of shared memory
  const int slice = (vocabulary + kSampleBlocks * kSampleWarps - 1) /
                    (kSampleBlocks * kSampleWarps) * kSampleWarps;
  Check(slice <= kMostSlice, ErrorCode::kUnsupported, "sample: a vocabulary of ", vocabulary,
        " tokens, on a GPU ", kSampleBlocks * kMostSlice, " at most");
  LaunchOp("sample", context,
           {.grid = dim3((count + kSampleThreads - 1) / kSampleThreads), .threads = kSampleThreads},
           Append, args.rows.data(), args.states.data(), args.token_ids.as<int32_t>(),
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
           {.grid = dim3(count * kSampleBlocks),
            .threads = kSampleThreads,
            .shared_bytes = slice * sizeof(float),
            .cluster = kSampleBlocks},
           SampleRows, params);
}

}  // namespace dualfp::cuda
