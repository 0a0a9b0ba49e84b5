// bench_decode [--shape llama-3.2-1b|1b] [--blocks N] [--threads N]: decode tokens/s of a dummy
// model of about a billion parameters at FP16 and at FP8, from one nested copy.
//
// The two precisions alternate in short blocks of one generation, so that a machine busy with other
// things slows both alike; the figure is the median of the blocks' ratios.
// Shapes are those of bench/shapes:
//   llama-3.2-1b  the shape of Llama-3.2-1B: 21 % of its bytes are the lm_head, which stays FP16,
//                 so bytes alone allow 1.65
//   1b            22 layers of 2048 with a vocabulary of 32000 (TinyLlama's shape); bytes
//   allow 1.88

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include "bench/statistics.h"
#include "dualfp/base/cpu_features.h"
#include "dualfp/io/hf_config.h"
#include "dualfp/model/decoder.h"
#include "dualfp/model/weights.h"

namespace dualfp {
namespace {

constexpr int kTokensPerBlock = 4;

void Run(const std::string& shape, int blocks, int num_threads) {
  const ModelConfig config = LoadModelConfig(std::string(DUALFP_SHAPES_DIR) + "/" + shape);
  ThreadPool threads(num_threads);
  DummySource source(0);
  const Model model = LoadModel(config, source, {}, threads);
  const int64_t length = int64_t{2} * (blocks + 1) * kTokensPerBlock;
  KvCache cache(model.KvCacheFor(DType::kF16, KvBlocksFor(length)));
  std::vector<int32_t> table(KvBlocksFor(length));
  std::iota(table.begin(), table.end(), 0);
  Decoder decoder(model, {.limits = {.max_tokens = 1, .max_context = length}});
  StepBatch batch = decoder.NewBatch();
  std::vector<float> logits(config.vocab_size);
  const PrecisionPlan plans[2] = {
      PrecisionPlan::Uniform(config.num_hidden_layers, Precision::kFp16),
      PrecisionPlan::Uniform(config.num_hidden_layers, Precision::kFp8)};

  int64_t position = 0;
  const auto seconds = [&](const PrecisionPlan& plan) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kTokensPerBlock; ++i, ++position) {
      const auto token = static_cast<int32_t>(position * 97 % config.vocab_size);
      batch.Clear();
      batch.AddSequence({&token, 1}, position, table);
      batch.SetPlan(&plan);
      batch.AddLogitRow(0);
      decoder.Forward({.threads = &threads}, batch, cache,
                      {logits.data(), DType::kF32, {1, config.vocab_size}});
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
           kTokensPerBlock;
  };
  seconds(plans[0]);
  seconds(plans[1]);
  std::vector<double> times[2];
  std::vector<double> ratios;
  for (int block = 0; block < blocks; ++block) {
    for (const int i : {0, 1}) {
      times[i].push_back(seconds(plans[i]));
    }
    ratios.push_back(times[0].back() / times[1].back());
  }
  std::printf("%s, dummy weights, %s, %d threads, %d blocks of %d tokens\n", shape.c_str(),
              CpuDescription().c_str(), threads.num_threads(), blocks, kTokensPerBlock);
  int64_t bytes[2] = {};
  for (const int i : {0, 1}) {
    bytes[i] = decoder.CostOf(plans[i]).weight_bytes;
    const double best = *std::min_element(times[i].begin(), times[i].end());
    std::printf("%s: median %.2f tokens/s, best %.2f; %.3f GB of weights a token, best %.1f GB/s\n",
                i == 0 ? "fp16" : "fp8 ", 1 / Median(times[i]), 1 / best,
                static_cast<double>(bytes[i]) / 1e9, static_cast<double>(bytes[i]) / 1e9 / best);
  }
  std::printf("fp8 over fp16: %.3f (median of blocks), %.3f (best); bytes alone: %.3f\n",
              Median(ratios),
              *std::min_element(times[0].begin(), times[0].end()) /
                  *std::min_element(times[1].begin(), times[1].end()),
              static_cast<double>(bytes[0]) / static_cast<double>(bytes[1]));
}

}  // namespace
}  // namespace dualfp

int main(int argc, char** argv) {
  CLI::App app("Decode speed at FP16 and FP8 from one nested copy");
  std::string shape = "1b";
  int blocks = 20;
  int threads = 0;
  app.add_option("--shape", shape)->check(CLI::IsMember({"1b", "llama-3.2-1b"}));
  app.add_option("--blocks", blocks)->check(CLI::Range(1, 1000));
  app.add_option("--threads", threads)->check(CLI::Range(1, 1024));
  CLI11_PARSE(app, argc, argv);
  dualfp::Run(shape, blocks, threads);
  return 0;
}
