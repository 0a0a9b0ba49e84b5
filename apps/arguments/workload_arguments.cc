#include "apps/arguments/workload_arguments.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "bench/serving/workload/synthetic_trace.h"

namespace dualfp {
namespace {

std::string TraceNames() {
  std::string names;
  for (const SyntheticTrace& trace : SyntheticTraces()) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", trace.name);
  }
  return names;
}

std::string CheckTrace(const std::string& name) {
  if (FindSyntheticTrace(name) != nullptr || std::filesystem::exists(name)) {
    return "";
  }
  return fmt::format("{} is neither a file nor one of {}", name, TraceNames());
}

}  // namespace

CLI::Validator PositiveOrInfinite() {
  return {[](const std::string& text) {
            double value = 0;
            const bool valid = CLI::detail::lexical_cast(text, value) && value > 0;
            return valid ? std::string() : fmt::format("{} is not a number above 0", text);
          },
          "POSITIVE"};
}

void WorkloadArguments::AddTo(CLI::App& app) {
  constexpr const char* kGroup = "Workload";
  const CLI::Range tokens(int64_t{1}, int64_t{1} << 24);
  CLI::Option* kind = app.add_option("--dataset", dataset, "Lengths (default random)");
  kind->check(CLI::IsMember({"random", "trace"}))->option_text("{random,trace}")->group(kGroup);
  app.add_option("--num-prompts", num_prompts, "Requests (default 100)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->option_text("N")
      ->group(kGroup);
  app.add_option("--random-input-len,--input-len", random.input, "Tokens (default 128)")
      ->check(tokens)
      ->option_text("N")
      ->group(kGroup);
  app.add_option("--random-output-len,--output-len", random.output, "Tokens (default 128)")
      ->check(tokens)
      ->option_text("N")
      ->group(kGroup);
  app.add_option("--random-range-ratio", random.range_ratio, "Lengths vary by this share (0)")
      ->check(CLI::Range(0.0, 1.0))
      ->option_text("F")
      ->group(kGroup);
  app.add_option_function<std::string>(
         "--trace",
         [this](const std::string& name) {
           trace = name;
           dataset = "trace";
         },
         "CSV, or azure-conv-2023, -2024, azure-code")
      ->check(CheckTrace)
      ->option_text("NAME|FILE")
      ->group(kGroup);
  app.add_option("--trace-lengths", trace_lengths, "Multiply a trace's lengths")
      ->check(CLI::Range(1e-6, 1e6))
      ->option_text("F")
      ->group(kGroup);
  app.add_option("--trace-keep", trace_keep, "Thin: keep a request with this probability")
      ->check(CLI::Range(1e-6, 1.0))
      ->option_text("F")
      ->group(kGroup);
}

Workload WorkloadArguments::Make(uint64_t seed) const {
  if (dataset == "random") {
    return RandomWorkload(num_prompts, random, seed);
  }
  Workload workload;
  if (const SyntheticTrace* synthetic = FindSyntheticTrace(trace)) {
    // Of a thinned one a little more than is kept on average.
    const double wanted = static_cast<double>(num_prompts) / trace_keep;
    const double spare = trace_keep < 1 ? 5 * std::sqrt(wanted) : 0;
    workload = Synthesize(*synthetic, std::llround(wanted + spare), seed);
  } else {
    workload = LoadTrace(trace);
  }
  if (trace_keep < 1) {
    Thin(&workload, trace_keep, seed);
  }
  workload.resize(std::min(workload.size(), static_cast<size_t>(num_prompts)));
  ScaleLengths(&workload, trace_lengths);
  return workload;
}

std::string WorkloadArguments::Describe() const {
  if (dataset == "random") {
    return fmt::format(
        "random, {} + {} tokens{}", random.input, random.output,
        random.range_ratio > 0 ? fmt::format(" +- {:.0f} %", 100 * random.range_ratio) : "");
  }
  return fmt::format("trace {}{}{}", trace,
                     trace_lengths != 1 ? fmt::format(", lengths x {:g}", trace_lengths) : "",
                     trace_keep != 1 ? fmt::format(", thinned to {:g}", trace_keep) : "");
}

}  // namespace dualfp
