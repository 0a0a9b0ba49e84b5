// The engine's own costs.
//
//   bench_engine overhead            the engine around a model that costs nothing
//   bench_engine serve MODEL         share of a step that is not the model's, at 64 requests
//   bench_engine switch MODEL        first step after a switch of precision over the median step
//
// MODEL is a checkpoint directory. Ratios are of one run; times are medians. What batching buys is
// measured by `dualfp bench throughput --concurrency 1,32`.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "bench/statistics.h"
#include "dualfp/base/check.h"
#include "dualfp/base/cpu_features.h"
#include "dualfp/engine/decoder_runner.h"
#include "dualfp/engine/engine_core.h"
#include "dualfp/io/hf_config.h"
#include "dualfp/model/weights.h"

namespace dualfp {
namespace {

class NullRunner : public ModelRunner {
 public:
  NullRunner(int64_t vocab_size, int max_sequences, ThreadPool* threads)
      : sampler_(max_sequences, vocab_size, 0, threads) {
    info_.vocab_size = vocab_size;
    info_.num_layers = 32;
    info_.max_model_len = 4096;
    info_.num_blocks = 64 * 256;
    info_.max_rows = 2048;
    info_.max_sequences = max_sequences;
    info_.max_logit_rows = max_sequences;
    logits_.resize(vocab_size * max_sequences);
    uint32_t state = 1;
    for (float& logit : logits_) {
      state = state * 1664525 + 1013904223;
      logit = static_cast<float>(state >> 8) * 0x1p-21f - 4.0f;
    }
  }
  const RunnerInfo& info() const override { return info_; }
  void SetSamplingState(int64_t seat, const SamplingHistory& history) override {
    sampler_.SetState(seat, history);
  }
  void Launch(StepBatch* batch) override {
    sampler_.Run({logits_.data(), DType::kF32, {batch->num_logit_rows(), info_.vocab_size}}, batch);
  }
  void Wait() override {}

 private:
  RunnerInfo info_;
  std::vector<float> logits_;
  BatchSampler sampler_;
};

// An engine core with requests that never end by themselves.
class Load {
 public:
  explicit Load(ModelRunner* runner) : runner_(runner), metrics_(4096) {
    config_.on_step = [this](const StepReport& report) { report_ = report; };
    const RunnerInfo& info = runner->info();
    core_ = std::make_unique<EngineCore>(
        config_, runner, nullptr,
        MakeFixedController(PrecisionPlan::Uniform(info.num_layers, Precision::kExact)), &metrics_,
        Hash128{1, 2});
  }

  void Add(int count, int prompt, int64_t max_tokens, float temperature) {
    const RunnerInfo& info = runner_->info();
    const RequestContext context{info.vocab_size, info.max_model_len, info.block_size, nullptr, {}};
    for (int i = 0; i < count; ++i) {
      Request request;
      for (int token = 0; token < prompt; ++token) {
        request.prompt.push_back(static_cast<int32_t>((id_ * 131 + token * 7) % info.vocab_size));
      }
      request.sampling.max_tokens = max_tokens;
      request.sampling.temperature = temperature;
      request.sampling.seed = id_;
      auto state = MakeRequestState(
          request, [](const RequestOutput&) {}, 0, context);
      state->id = ++id_;
      core_->Add(std::move(state));
    }
    while (core_->scheduler().running().size() < static_cast<size_t>(id_) ||
           report_.features.prefill_tokens > 0) {
      core_->Step();
    }
  }

  void SetPrecision(Precision precision) {
    core_->SetController(
        MakeFixedController(PrecisionPlan::Uniform(runner_->info().num_layers, precision)));
  }

  const StepReport& Step() {
    core_->Step();
    return report_;
  }

 private:
  ModelRunner* runner_;
  EngineConfig config_;
  EngineMetrics metrics_;
  std::unique_ptr<EngineCore> core_;
  StepReport report_;
  RequestId id_ = 0;
};

void Overhead(ThreadPool* threads) {
  std::printf("%-12s %-12s %10s %14s %14s\n", "requests", "vocabulary", "sampling", "us/step p50",
              "us/step p99");
  for (const int64_t vocab_size : {64, 4096, 128256}) {
    for (const float temperature : {0.0f, 1.0f}) {
      NullRunner runner(vocab_size, 64, threads);
      Load load(&runner);
      load.Add(64, 256, 3000, temperature);
      std::vector<double> seconds;
      for (int step = 0; step < (vocab_size > 10000 ? 200 : 2000); ++step) {
        const TimePoint start = Clock::now();
        load.Step();
        seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
      }
      std::printf("%-12d %-12ld %10s %14.1f %14.1f\n", 64, static_cast<long>(vocab_size),
                  temperature == 0.0f ? "greedy" : "random", 1e6 * Median(seconds),
                  1e6 * InterpolatedQuantile(seconds, 0.99));
    }
  }
}

DecoderRunnerConfig RunnerConfig(int sequences, int tokens_each) {
  DecoderRunnerConfig config;
  config.max_num_seqs = sequences;
  config.max_num_batched_tokens = 512;
  config.num_blocks = sequences * (KvBlocksFor(tokens_each) + 1);
  return config;
}

Model LoadNested(const std::string& directory, ThreadPool* threads) {
  LoadOptions options;
  options.scheme = kNestedWeights;
  return LoadModel(directory, options, *threads);
}

void Serve(const std::string& directory, ThreadPool* threads) {
  const Model model = LoadNested(directory, threads);
  for (const Precision precision : {Precision::kExact, Precision::kFp8}) {
    for (const float temperature : {0.0f, 1.0f}) {
      DecoderRunner runner(model, RunnerConfig(64, 400), threads);
      Load load(&runner);
      load.SetPrecision(precision);
      load.Add(64, 100, 300, temperature);
      std::vector<double> total;
      std::vector<double> rest;
      for (int step = 0; step < 100; ++step) {
        const TimePoint start = Clock::now();
        const StepReport& report = load.Step();
        const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
        total.push_back(seconds);
        rest.push_back(seconds - report.execute_seconds);
      }
      std::printf("%s %-6s 64 requests: step %8.2f ms, outside the model %7.3f ms = %.2f %%\n",
                  std::string(PrecisionName(precision)).c_str(),
                  temperature == 0.0f ? "greedy" : "random", 1e3 * Median(total),
                  1e3 * Median(rest), 100.0 * Median(rest) / Median(total));
    }
  }
}

void Switch(const std::string& directory, ThreadPool* threads) {
  constexpr int kStepsPerSide = 10;
  const Model model = LoadNested(directory, threads);
  for (const int sequences : {1, 16}) {
    DecoderRunner runner(model, RunnerConfig(sequences, 700), threads);
    Load load(&runner);
    load.Add(sequences, 32, 660, 0.0f);
    std::vector<double> ratios[2];
    for (int side = 0; side < 60; ++side) {
      load.SetPrecision(side % 2 == 0 ? Precision::kFp8 : Precision::kExact);
      std::vector<double> seconds;
      seconds.reserve(kStepsPerSide);
      for (int step = 0; step < kStepsPerSide; ++step) {
        seconds.push_back(load.Step().seconds);
      }
      const double first = seconds[0];
      seconds.erase(seconds.begin());
      if (side >= 4) {  // warm
        ratios[side % 2].push_back(first / Median(seconds));
      }
    }
    std::printf("%2d requests: first step after a switch / median step, over %zu switches each:\n",
                sequences, ratios[0].size());
    for (const int side : {0, 1}) {
      std::printf("   to %s   median %.3f   p90 %.3f\n", side == 0 ? "fp8 " : "fp16",
                  Median(ratios[side]), InterpolatedQuantile(ratios[side], 0.9));
    }
  }
}

int Main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const std::string directory = argc > 2 ? argv[2] : "";
  ThreadPool threads;
  std::printf("%s, %d threads\n", CpuDescription().c_str(), threads.num_threads());
  if (what == "overhead") {
    Overhead(&threads);
  } else if (what == "serve" && argc == 3) {
    Serve(directory, &threads);
  } else if (what == "switch" && argc == 3) {
    Switch(directory, &threads);
  } else {
    std::fprintf(stderr, "usage: bench_engine overhead | serve MODEL | switch MODEL\n");
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace dualfp

int main(int argc, char** argv) {
  try {
    return dualfp::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_engine: %s\n", error.what());
    return 1;
  }
}
