// dualfp bench latency: how long one batch of equal requests takes, from submission to its end.

#include <fmt/core.h>

#include <memory>
#include <mutex>

#include "apps/arguments/engine_arguments.h"
#include "apps/bench/bench_commands.h"
#include "apps/bench/run_progress.h"
#include "bench/serving/load/engine_load.h"
#include "bench/statistics.h"
#include "dualfp/base/cpu_features.h"
#include "dualfp/io/file.h"
#include "dualfp/io/json.h"

namespace dualfp {
namespace {

struct LatencyArguments {
  LlmOptions llm;
  int64_t batch_size = 8;
  int64_t input_len = 32;
  int64_t output_len = 128;
  int num_iters_warmup = 3;
  int num_iters = 10;
  std::string json;
};

// Steps without prefill: what a token costs once all requests run.
struct DecodeSteps {
  std::mutex mutex;
  std::vector<double> seconds;

  void Add(const StepReport& step) {
    if (step.features.prefill_tokens == 0) {
      const std::lock_guard lock(mutex);
      seconds.push_back(step.seconds);
    }
  }
};

void PrintRow(const char* name, const Summary& summary) {
  fmt::print("{:<22}{:>10.2f}{:>10.2f}{:>10.2f}{:>10.2f}\n", name, 1e3 * summary.mean,
             1e3 * summary.median, 1e3 * summary.p90, 1e3 * summary.p99);
}

void RunLatency(LatencyArguments& a) {
  if (a.batch_size > a.llm.max_num_seqs) {
    throw CLI::ValidationError("--batch-size", fmt::format("{} is more than --max-num-seqs, {}",
                                                           a.batch_size, a.llm.max_num_seqs));
  }
  const uint64_t seed = a.llm.seed.value_or(0);
  DecodeSteps steps;
  const auto loaded =
      LoadLlmWithProgress(a.llm, [&steps](const StepReport& step) { steps.Add(step); });
  const Workload batch(static_cast<size_t>(a.batch_size), {0, a.input_len, a.output_len});
  std::vector<double> latencies;
  {
    const int all = a.num_iters_warmup + a.num_iters;
    RunProgress progress("bench latency", a.batch_size * all);
    for (int i = 0; i < all; ++i) {
      const EngineLoadResult result = RunOnEngine(
          *loaded->engine, batch, a.batch_size, seed + static_cast<uint64_t>(i),
          [&](int64_t done) { progress.Update(a.batch_size * i + done, a.batch_size - done); });
      if (i + 1 == a.num_iters_warmup) {
        const std::lock_guard lock(steps.mutex);
        steps.seconds.clear();
      }
      if (i >= a.num_iters_warmup) {
        latencies.push_back(result.seconds);
      }
    }
  }
  const Summary batch_latency = Summarize(latencies);
  std::vector<double> step_seconds;
  {
    const std::lock_guard lock(steps.mutex);
    step_seconds = steps.seconds;
  }
  const Summary step = Summarize(step_seconds);
  fmt::print("{}; {}\n{}, {} threads; batches of {}, {} + {} tokens\n\n", a.llm.model.model,
             loaded->Describe(), CpuDescription(), loaded->threads->num_threads(), a.batch_size,
             a.input_len, a.output_len);
  fmt::print("{:<22}{:>10}{:>10}{:>10}{:>10}\n", "ms", "mean", "median", "p90", "p99");
  PrintRow("Batch", batch_latency);
  if (step.count > 0) {
    PrintRow("Decode step", step);
  }
  if (!a.json.empty()) {
    const Json json = {
        {"benchmark", "latency"},
        {"model", a.llm.model.model},
        {"cpu", CpuDescription()},
        {"threads", loaded->threads->num_threads()},
        {"precision", a.llm.precision},
        {"batch_size", a.batch_size},
        {"input_len", a.input_len},
        {"output_len", a.output_len},
        {"avg_latency", batch_latency.mean},
        {"latencies", latencies},
        {"percentiles",
         {{"50", batch_latency.median}, {"90", batch_latency.p90}, {"99", batch_latency.p99}}},
        {"decode_steps", step.count},
        {"median_decode_step", step.count > 0 ? Json(step.median) : Json()}};
    WriteFileAtomically(a.json, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  }
}

}  // namespace

void AddBenchLatency(CLI::App& bench) {
  auto arguments = std::make_shared<LatencyArguments>();
  LatencyArguments& a = *arguments;
  CLI::App* command = bench.add_subcommand("latency", "Latency of one batch in this process");
  command->footer(
      "Example: dualfp bench latency models/reference --batch-size 1 --precision exact");
  AddEngineOptions(*command, a.llm);
  constexpr const char* kRun = "Run";
  const CLI::Range tokens(int64_t{1}, int64_t{1} << 24);
  command->add_option("--batch-size", a.batch_size, "Requests (default 8)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16))
      ->option_text("N")
      ->group(kRun);
  command->add_option("--input-len", a.input_len, "Tokens (default 32)")
      ->check(tokens)
      ->option_text("N")
      ->group(kRun);
  command->add_option("--output-len", a.output_len, "Tokens (default 128)")
      ->check(tokens)
      ->option_text("N")
      ->group(kRun);
  command->add_option("--num-iters-warmup", a.num_iters_warmup, "Batches not counted (3)")
      ->check(CLI::Range(0, 1 << 20))
      ->option_text("N")
      ->group(kRun);
  command->add_option("--num-iters", a.num_iters, "Batches (default 10)")
      ->check(CLI::Range(1, 1 << 20))
      ->option_text("N")
      ->group(kRun);
  command->add_option("--save-result", a.json, "JSON")->option_text("FILE")->group(kRun);
  command->callback([arguments] { RunLatency(*arguments); });
}

}  // namespace dualfp
