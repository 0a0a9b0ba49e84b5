// GPU benchmark of attention and of what lies between the products of a step, by the shape of
// Llama-3.1-8B: 32 heads, 8 kv heads, head_dim 128, width 4096, vocabulary 128256, FP16.
//
//   bench_ops_cuda [attention | prefill | elementwise | sample]...
//
// A call's time is that of a captured run of many, over caches that together exceed the L2, by the
// median. "of copy" is the bytes that must move over the time, as a share of what a copy of a
// gigabyte reaches in the same run; prefills say how many operations a second they do.

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string_view>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/device.h"

namespace dualfp::bench {
namespace {

using cuda::CheckCuda;

constexpr Device kGpu{DeviceType::kCuda, 0};
constexpr int64_t kHeads = 32;
constexpr int64_t kKvHeads = 8;
constexpr int64_t kHeadDim = 128;
constexpr int64_t kWidth = 4096;
constexpr int64_t kVocabulary = 128256;
constexpr int64_t kRotatingBytes = int64_t{300} << 20;

__global__ void FillKernel(uint16_t* out, int64_t count, uint32_t mask, uint32_t base) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint64_t z = (i + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    out[i] = static_cast<uint16_t>((z >> 32 & mask) + base);
  }
}

__global__ void __launch_bounds__(512) CopyKernel(const uint4* from, uint4* to, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    to[i] = from[i];
  }
}

class Bench {
 public:
  Bench() : stream_(MakeStream(kGpu)) {
    context_.device = kGpu;
    context_.stream = stream_.get();
    const int64_t bytes = int64_t{1} << 30;
    const TensorView from = Make(DType::kU8, {bytes});
    const TensorView to = Make(DType::kU8, {bytes});
    const int64_t count = bytes / static_cast<int64_t>(sizeof(uint4));
    copy_bytes_per_us_ =
        2.0 * static_cast<double>(bytes) /
        Time(
            [&](int) {
              CopyKernel<<<2048, 512, 0, static_cast<cudaStream_t>(stream_->native())>>>(
                  from.as<uint4>(), to.as<uint4>(), count);
              CheckCuda(cudaGetLastError(), "copy");
            },
            4);
    std::printf("copy %.2f TB/s\n", copy_bytes_per_us_ * 1e-6);
    buffers_.clear();
  }

  const OpTable& ops() const { return *BestBackend(DeviceType::kCuda).ops; }
  Context& context() { return context_; }
  void Free() { buffers_.clear(); }

  // Random values: 16-bit floats between 0.5 and 2 of either sign, other types random bits in
  // which nothing is NaN.
  TensorView Make(DType dtype, std::initializer_list<int64_t> shape) {
    TensorView view(nullptr, dtype, shape, kGpu);
    buffers_.push_back(Allocate(kGpu, view.num_bytes()));
    view.data = buffers_.back().data();
    const bool f16 = dtype == DType::kF16;
    FillKernel<<<2048, 256, 0, static_cast<cudaStream_t>(stream_->native())>>>(
        view.as<uint16_t>(), view.num_bytes() / 2, f16 ? 0x87ff : 0x3f3f, f16 ? 0x3800 : 0);
    CheckCuda(cudaGetLastError(), "Fill");
    return view;
  }
  template <typename T>
  TensorView Put(const std::vector<T>& values, DType dtype, std::initializer_list<int64_t> shape) {
    TensorView view(nullptr, dtype, shape, kGpu);
    buffers_.push_back(Allocate(kGpu, std::max<size_t>(values.size() * sizeof(T), 1)));
    view.data = buffers_.back().data();
    stream_->Copy(view.data, values.data(), values.size() * sizeof(T));
    return view;
  }

  // Microseconds of one of `calls` calls of run(index), in a graph.
  double Time(const std::function<void(int)>& run, int calls) {
    const std::unique_ptr<Graph> graph = Capture(*stream_, [&] {
      for (int i = 0; i < calls; ++i) {
        run(i);
      }
    });
    auto* native = static_cast<cudaStream_t>(stream_->native());
    cudaEvent_t begin;
    cudaEvent_t end;
    CheckCuda(cudaEventCreate(&begin), "cudaEventCreate");
    CheckCuda(cudaEventCreate(&end), "cudaEventCreate");
    std::vector<double> times;
    for (int i = 0; i < 12; ++i) {
      CheckCuda(cudaEventRecord(begin, native), "cudaEventRecord");
      graph->Launch();
      CheckCuda(cudaEventRecord(end, native), "cudaEventRecord");
      CheckCuda(cudaEventSynchronize(end), "cudaEventSynchronize");
      float ms = 0.0f;
      CheckCuda(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
      if (i >= 2) {
        times.push_back(1e3 * ms / calls);
      }
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    return times[times.size() / 2];
  }

  double OfCopy(double bytes, double us) const { return bytes / us / copy_bytes_per_us_; }

 private:
  std::unique_ptr<Stream> stream_;
  Context context_;
  std::vector<Buffer> buffers_;
  double copy_bytes_per_us_ = 1.0;
};

void Attention(Bench& bench, int batch, int rows, int context, DType cache, bool invariant) {
  bench.Free();
  const int64_t pages = (context + kKvBlockSize - 1) / kKvBlockSize;
  const int64_t blocks = batch * pages;
  const double kv_bytes =
      2.0 * batch * context * kKvHeads * kHeadDim * static_cast<double>(DTypeSize(cache));
  const int pools = static_cast<int>(std::clamp(kRotatingBytes / kv_bytes, 1.0, 64.0));
  std::vector<PagedKv> kv(pools);
  for (PagedKv& pool : kv) {
    pool.key = bench.Make(cache, {blocks, kKvHeads, kKvBlockSize, kHeadDim});
    pool.value = bench.Make(cache, {blocks, kKvHeads, kKvBlockSize, kHeadDim});
  }
  std::vector<int32_t> table(blocks);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(1));
  std::vector<int32_t> start(batch + 1);
  for (int s = 0; s <= batch; ++s) {
    start[s] = s * rows;
  }
  const std::vector<int32_t> length(batch, context);
  const int64_t tokens = int64_t{batch} * rows;
  const AttentionShape shape{kHeads, kKvHeads, kHeadDim};
  AttentionPlan plan;
  plan.batch_invariant = invariant;
  bench.ops().plan_attention(shape, start, length, &plan);
  bench.context().workspace = bench.Make(DType::kU8, {std::max<int64_t>(plan.workspace_bytes, 16)});
  PagedAttentionArgs args{.query = bench.Make(DType::kF16, {tokens, kHeads, kHeadDim}),
                          .query_start = bench.Put(start, DType::kI32, {batch + 1}),
                          .context_length = bench.Put(length, DType::kI32, {batch}),
                          .block_table = bench.Put(table, DType::kI32, {batch, pages}),
                          .scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim)),
                          .out = bench.Make(DType::kF16, {tokens, kHeads, kHeadDim})};
  const double us = bench.Time(
      [&](int i) {
        args.cache = kv[i % pools];
        bench.ops().paged_attention(bench.context(), args, plan);
      },
      std::max(pools, rows > 1 ? 4 : 16));
  const char* name = cache == DType::kF16 ? "F16" : cache == DType::kBF16 ? "BF16" : "E4M3";
  if (rows == 1) {
    std::printf("decode %4d x %6d %s%s %9.2f us, of copy %.2f\n", batch, context, name,
                invariant ? " invariant" : "", us, bench.OfCopy(kv_bytes, us));
  } else {
    const double keys = context - (rows - 1) / 2.0;
    std::printf("prefill %d x %d of %d %s %9.1f us, %.0f TFLOP/s\n", batch, rows, context, name, us,
                4e-6 * tokens * keys * kHeads * kHeadDim / us);
  }
  std::fflush(stdout);
}

void Elementwise(Bench& bench, int64_t rows) {
  bench.Free();
  constexpr int kCalls = 64;
  const TensorView x = bench.Make(DType::kF16, {rows, kWidth});
  const TensorView y = bench.Make(DType::kF16, {rows, kWidth});
  const TensorView weight = bench.Put(std::vector<float>(kWidth, 1.0f), DType::kF32, {kWidth});
  const TensorView codes = bench.Make(DType::kF8E4M3, {rows, kWidth});
  const TensorView scales = bench.Make(DType::kF32, {rows});
  const TensorView qkv = bench.Make(DType::kF16, {rows, (kHeads + 2 * kKvHeads) * kHeadDim});
  const auto heads = [&](int64_t first, int64_t count) {
    TensorView view(qkv.as<uint16_t>() + first * kHeadDim, DType::kF16, {rows, count, kHeadDim},
                    kGpu);
    view.strides[0] = qkv.strides[0];
    return view;
  };
  std::vector<int32_t> slot(rows);
  std::iota(slot.begin(), slot.end(), 0);
  const int64_t blocks = (rows + kKvBlockSize - 1) / kKvBlockSize;
  const RotateAndCacheArgs rotate{
      .cos_sin =
          bench.Put(std::vector<float>(rows * kHeadDim, 0.7f), DType::kF32, {rows, kHeadDim}),
      .query = heads(0, kHeads),
      .key = heads(kHeads, kKvHeads),
      .value = heads(kHeads + kKvHeads, kKvHeads),
      .slot = bench.Put(slot, DType::kI32, {rows}),
      .cache = {bench.Make(DType::kF16, {blocks, kKvHeads, kKvBlockSize, kHeadDim}),
                bench.Make(DType::kF16, {blocks, kKvHeads, kKvBlockSize, kHeadDim})}};
  Context& context = bench.context();
  const double norm = bench.Time(
      [&](int) {
        bench.ops().rms_norm(context, {x, weight, 1e-5f, y});
      },
      kCalls);
  const double quantized = bench.Time(
      [&](int) {
        bench.ops().rms_norm_quantize(
            context,
            {.x = x, .weight = weight, .epsilon = 1e-5f, .codes = codes, .scales = scales});
      },
      kCalls);
  const double rotated =
      bench.Time([&](int) { bench.ops().rotate_and_cache(context, rotate); }, kCalls);
  std::printf("%4ld rows: norm %.2f us, norm to E4M3 %.2f us, rope and KV write %.2f us\n",
              static_cast<long>(rows), norm, quantized, rotated);
}

void Sampling(Bench& bench, int64_t rows) {
  bench.Free();
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 2.5f);
  std::vector<float> host(rows * kVocabulary);
  std::generate(host.begin(), host.end(), [&] { return normal(random); });
  const TensorView logits = bench.Put(host, DType::kF32, {rows, kVocabulary});
  const TensorView tokens = bench.Make(DType::kI32, {rows});
  std::printf("sample %3ld:", static_cast<long>(rows));
  for (const char* kind : {"greedy", "temperature", "top_k 50, top_p 0.9", "20 logprobs"}) {
    std::vector<SampleRow> samples(rows);
    for (int64_t i = 0; i < rows; ++i) {
      samples[i].logit_row = static_cast<int32_t>(i);
      samples[i].seed = i;
      samples[i].temperature = kind[0] == 'g' || kind[0] == '2' ? 0.0f : 0.8f;
      if (kind[1] == 'o') {
        samples[i].top_k = 50;
        samples[i].top_p = 0.9f;
      }
      samples[i].num_scores = kind[0] == '2' ? 21 : 0;
      samples[i].score_begin = static_cast<int32_t>(21 * i);
    }
    const TensorView device_rows = bench.Put(samples, DType::kU8, {1});
    const TensorView scores = bench.Put(std::vector<ScoredToken>(21 * rows), DType::kU8, {1});
    const SampleArgs args{.logits = logits,
                          .token_ids = tokens,
                          .rows = {device_rows.as<SampleRow>(), static_cast<size_t>(rows)},
                          .tokens = {tokens.as<int32_t>(), static_cast<size_t>(rows)},
                          .scores = {scores.as<ScoredToken>(), static_cast<size_t>(21 * rows)}};
    const double us = bench.Time([&](int) { bench.ops().sample(bench.context(), args); }, 8);
    std::printf(" %s %.1f us;", kind, us);
  }
  std::printf("\n");
}

void Run(std::string_view what) {
  Bench bench;
  const bool all = what == "all";
  if (all || what == "attention") {
    for (const DType cache : {DType::kF16, DType::kF8E4M3}) {
      for (const auto& [batch, context] : {std::pair{1, 200},
                                           {1, 2048},
                                           {1, 16384},
                                           {1, 131072},
                                           {16, 200},
                                           {16, 4096},
                                           {64, 200},
                                           {64, 4096},
                                           {256, 200},
                                           {256, 2048}}) {
        Attention(bench, batch, 1, context, cache, false);
      }
    }
    for (const auto& [batch, context] : {std::pair{1, 2048}, {16, 4096}, {64, 200}, {256, 200}}) {
      Attention(bench, batch, 1, context, DType::kF16, true);
    }
  }
  if (all || what == "prefill") {
    for (const auto& [rows, context] :
         {std::pair{512, 512}, {2048, 2048}, {8192, 8192}, {2048, 8192}}) {
      Attention(bench, 1, rows, context, DType::kF16, false);
    }
    Attention(bench, 1, 2048, 2048, DType::kF8E4M3, false);
  }
  if (all || what == "elementwise") {
    for (const int64_t rows : {1, 16, 64, 256, 2048}) {
      Elementwise(bench, rows);
    }
  }
  if (all || what == "sample") {
    for (const int64_t rows : {1, 16, 64, 256}) {
      Sampling(bench, rows);
    }
  }
}

}  // namespace
}  // namespace dualfp::bench

int main(int argc, char** argv) {
  try {
    for (int i = 1; i < argc; ++i) {
      dualfp::bench::Run(argv[i]);
    }
    if (argc == 1) {
      dualfp::bench::Run("all");
    }
  } catch (const dualfp::Error& error) {
    std::fprintf(stderr, "bench_ops_cuda: %s\n", error.what());
    return 1;
  }
  return 0;
}
