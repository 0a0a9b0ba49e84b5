// dualfp bench throughput: what the engine in this process reaches, at one or several levels of
// concurrency.
//
// Levels take turns, round after round, and each level's figure is its median: a neighbour's load
// then meets all of them alike, and their ratio is that of the engine.

#include <fmt/core.h>

#include <algorithm>
#include <memory>

#include "apps/arguments/engine_arguments.h"
#include "apps/arguments/workload_arguments.h"
#include "apps/bench/bench_commands.h"
#include "apps/bench/run_progress.h"
#include "bench/serving/load/engine_load.h"
#include "bench/serving/report/serving_report.h"
#include "dualfp/base/cpu_features.h"
#include "dualfp/io/file.h"

namespace dualfp {
namespace {

struct ThroughputArguments {
  LlmOptions llm;
  WorkloadArguments workload;
  std::vector<int64_t> concurrency;  // empty: all requests at once
  int rounds = 1;
  std::string json;
};

struct Level {
  int64_t concurrency = 0;
  Workload workload;
  std::vector<EngineLoadResult> rounds;

  EngineLoadResult Median() {
    std::sort(rounds.begin(), rounds.end(), [](const auto& a, const auto& b) {
      return a.output_per_second() < b.output_per_second();
    });
    return rounds[rounds.size() / 2];
  }
};

// A level has its share of the requests, so that all levels take about as long.
std::vector<Level> MakeLevels(const ThroughputArguments& a, const Workload& workload) {
  std::vector<int64_t> wanted = a.concurrency;
  if (wanted.empty()) {
    wanted = {a.llm.max_num_seqs};
  }
  const int64_t largest = *std::max_element(wanted.begin(), wanted.end());
  const auto all = static_cast<int64_t>(workload.size());
  std::vector<Level> levels;
  for (const int64_t concurrency : wanted) {
    Level level;
    level.concurrency = concurrency;
    const int64_t share = std::max<int64_t>(1, (all * concurrency + largest - 1) / largest);
    level.workload.assign(workload.begin(), workload.begin() + share);
    levels.push_back(std::move(level));
  }
  return levels;
}

void RunThroughput(const ThroughputArguments& a) {
  for (const int64_t concurrency : a.concurrency) {
    if (concurrency > a.llm.max_num_seqs) {
      throw CLI::ValidationError("--concurrency", fmt::format("{} is more than --max-num-seqs, {}",
                                                              concurrency, a.llm.max_num_seqs));
    }
  }
  const uint64_t seed = a.llm.seed.value_or(0);
  const auto loaded = LoadLlmWithProgress(a.llm);
  Workload workload = a.workload.Make(seed);
  FitContext(&workload, loaded->engine->info().max_model_len);
  std::vector<Level> levels = MakeLevels(a, workload);

  int64_t total = 0;
  for (const Level& level : levels) {
    total += a.rounds * static_cast<int64_t>(level.workload.size());
  }
  {
    RunProgress progress("bench throughput", total);
    int64_t finished = 0;
    for (int round = 0; round < a.rounds; ++round) {
      for (Level& level : levels) {
        level.rounds.push_back(RunOnEngine(
            *loaded->engine, level.workload, level.concurrency,
            seed + static_cast<uint64_t>(round) + 1,
            [&](int64_t done) { progress.Update(finished + done, level.concurrency); }));
        finished += static_cast<int64_t>(level.workload.size());
      }
    }
  }

  fmt::print("{}; {}\n{}, {} threads; {}\n\n", a.llm.model.model, loaded->Describe(),
             CpuDescription(), loaded->threads->num_threads(), a.workload.Describe());
  fmt::print("{:>11} {:>9} {:>12} {:>16} {:>15} {:>9}  {}\n", "concurrency", "requests",
             "requests/s", "output tokens/s", "total tokens/s", "vs first", "precision");
  Json rows = Json::array();
  double first = 0;
  for (Level& level : levels) {
    const EngineLoadResult result = level.Median();
    const auto requests = static_cast<double>(level.workload.size());
    first = first > 0 ? first : result.output_per_second();
    fmt::print("{:>11} {:>9} {:>12.3f} {:>16.2f} {:>15.2f} {:>8.2f}x  {}\n", level.concurrency,
               level.workload.size(), requests / result.seconds, result.output_per_second(),
               result.total_per_second(), result.output_per_second() / first,
               DescribePrecisions(result.tokens_by_precision));
    rows.push_back({{"concurrency", level.concurrency},
                    {"num_requests", level.workload.size()},
                    {"elapsed_time", result.seconds},
                    {"requests_per_second", requests / result.seconds},
                    {"output_tokens_per_second", result.output_per_second()},
                    {"tokens_per_second", result.total_per_second()},
                    {"prompt_tokens", result.prompt_tokens},
                    {"output_tokens", result.output_tokens}});
  }
  if (!a.json.empty()) {
    const Json json = {{"benchmark", "throughput"},
                       {"model", a.llm.model.model},
                       {"cpu", CpuDescription()},
                       {"threads", loaded->threads->num_threads()},
                       {"workload", a.workload.Describe()},
                       {"precision", a.llm.precision},
                       {"rounds", a.rounds},
                       {"results", rows}};
    WriteFileAtomically(a.json, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  }
}

}  // namespace

void AddBenchThroughput(CLI::App& bench) {
  auto arguments = std::make_shared<ThroughputArguments>();
  ThroughputArguments& a = *arguments;
  CLI::App* command =
      bench.add_subcommand("throughput", "Throughput of the engine in this process");
  command->footer(
      "Example: dualfp bench throughput models/reference --precision fp8 --concurrency 1,32\n"
      "           --num-prompts 64 --output-len 64 --rounds 3");
  AddEngineOptions(*command, a.llm);
  a.workload.AddTo(*command);
  constexpr const char* kRun = "Run";
  command->add_option("--concurrency", a.concurrency, "Levels to compare (--max-num-seqs)")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16))
      ->option_text("1,32")
      ->group(kRun);
  command->add_option("--rounds", a.rounds, "Of which the median counts (1)")
      ->check(CLI::Range(1, 1000))
      ->option_text("N")
      ->group(kRun);
  command->add_option("--save-result", a.json, "JSON")->option_text("FILE")->group(kRun);
  command->callback([arguments] { RunThroughput(*arguments); });
}

}  // namespace dualfp
