// The flags that choose a workload's lengths, for `bench serve` and `bench throughput`.

#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "bench/serving/workload/workload.h"

namespace dualfp {

struct WorkloadArguments {
  std::string dataset = "random";
  int64_t num_prompts = 100;
  RandomLengths random;
  std::string trace = "azure-conv-2023";  // a built-in one's name, or a CSV file
  double trace_lengths = 1;
  double trace_keep = 1;

  void AddTo(CLI::App& app);

  // At most num_prompts requests, at a trace's own times or all at once. Throws as LoadTrace().
  Workload Make(uint64_t seed) const;

  // "random: 100 requests of 128 + 128 tokens"
  std::string Describe() const;
};

// Accepts numbers above 0, "inf" among them.
CLI::Validator PositiveOrInfinite();

}  // namespace dualfp
