// bench_decode [--shape llama-3.2-1b|1b] [--blocks N] [--threads N]: decode tokens/s of a dummy
// model of about a billion parameters: exact and FP8 from one 16-bit nested copy of FP16 weights,
// and the same from one 12-bit nested copy of BF16 weights.
//
// The four alternate in short blocks of one generation, so that a machine busy with other things
// slows all alike; the figures are the medians of the blocks' ratios.
// Shapes are those of bench/shapes:
//   llama-3.2-1b  the shape of Llama-3.2-1B: 21 % of its bytes are the lm_head, which stays exact,
//                 so bytes alone allow 1.65 for FP8 from 16 bits
//   1b            22 layers of 2048 with a vocabulary of 32000 (TinyLlama's shape); bytes
//                 allow 1.88

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

// One model in a generation of its own.
class Generation {
 public:
  Generation(const ModelConfig& config, DType dtype, int64_t length, ThreadPool& threads)
      : threads_(threads),
        source_(0, dtype),
        model_(LoadModel(config, source_, {}, threads)),
        cache_(model_.KvCacheFor(DType::kF16, KvBlocksFor(length))),
        table_(KvBlocksFor(length)),
        decoder_(model_, {.limits = {.max_tokens = 1, .max_context = length}}),
        batch_(decoder_.NewBatch()),
        logits_(config.vocab_size) {
    std::iota(table_.begin(), table_.end(), 0);
  }

  const Decoder& decoder() const { return decoder_; }

  // Of a token, over one block.
  double Seconds(const PrecisionPlan& plan) {
    const auto vocabulary = static_cast<int64_t>(logits_.size());
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kTokensPerBlock; ++i, ++position_) {
      const auto token = static_cast<int32_t>(position_ * 97 % vocabulary);
      batch_.Clear();
      batch_.AddSequence({&token, 1}, position_, table_);
      batch_.SetPlan(&plan);
      batch_.AddLogitRow(0);
      decoder_.Forward({.threads = &threads_}, batch_, cache_,
                       {logits_.data(), DType::kF32, {1, vocabulary}});
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
           kTokensPerBlock;
  }

 private:
  ThreadPool& threads_;
  DummySource source_;
  Model model_;
  KvCache cache_;
  std::vector<int32_t> table_;
  Decoder decoder_;
  StepBatch batch_;
  std::vector<float> logits_;
  int64_t position_ = 0;
};

// What is timed.
struct Subject {
  const char* name;
  Generation* generation;
  Precision precision;
  PrecisionPlan plan;
  std::vector<double> seconds;  // of each block

  double Best() const { return *std::min_element(seconds.begin(), seconds.end()); }
  int64_t Bytes() const { return generation->decoder().CostOf(plan).weight_bytes; }
};

void PrintRatio(const Subject& faster, const Subject& slower) {
  std::vector<double> ratios;
  for (size_t block = 0; block < faster.seconds.size(); ++block) {
    ratios.push_back(slower.seconds[block] / faster.seconds[block]);
  }
  std::printf("%s over %s: %.3f (median of blocks), %.3f (best); bytes alone: %.3f\n", faster.name,
              slower.name, Median(ratios), slower.Best() / faster.Best(),
              static_cast<double>(slower.Bytes()) / static_cast<double>(faster.Bytes()));
}

void Run(const std::string& shape, int blocks, int num_threads) {
  const ModelConfig config = LoadModelConfig(std::string(DUALFP_SHAPES_DIR) + "/" + shape);
  ThreadPool threads(num_threads);
  const int64_t length = int64_t{2} * (blocks + 1) * kTokensPerBlock;
  Generation nested(config, DType::kF16, length, threads);
  Generation nested12(config, DType::kBF16, length, threads);
  std::vector<Subject> subjects = {
      {"nested exact", &nested, Precision::kExact, {}, {}},
      {"nested fp8", &nested, Precision::kFp8, {}, {}},
      {"nested12 exact", &nested12, Precision::kExact, {}, {}},
      {"nested12 fp8", &nested12, Precision::kFp8, {}, {}},
  };
  for (Subject& subject : subjects) {
    subject.plan = PrecisionPlan::Uniform(config.num_hidden_layers, subject.precision);
    subject.generation->Seconds(subject.plan);
  }
  for (int block = 0; block < blocks; ++block) {
    for (Subject& subject : subjects) {
      subject.seconds.push_back(subject.generation->Seconds(subject.plan));
    }
  }
  std::printf("%s, dummy weights, %s, %d threads, %d blocks of %d tokens\n", shape.c_str(),
              CpuDescription().c_str(), threads.num_threads(), blocks, kTokensPerBlock);
  for (const Subject& subject : subjects) {
    const double gigabytes = static_cast<double>(subject.Bytes()) / 1e9;
    std::printf(
        "%-14s: median %.2f tokens/s, best %.2f; %.3f GB of weights a token, best %.1f GB/s\n",
        subject.name, 1 / Median(subject.seconds), 1 / subject.Best(), gigabytes,
        gigabytes / subject.Best());
  }
  PrintRatio(subjects[1], subjects[0]);
  PrintRatio(subjects[2], subjects[0]);
  PrintRatio(subjects[3], subjects[2]);
}

}  // namespace
}  // namespace dualfp

int main(int argc, char** argv) {
  CLI::App app("Decode speed, exact and at FP8, from nested copies of 16 and of 12 bits");
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
