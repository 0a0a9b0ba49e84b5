// dualfp bench report: recorded measurements as a page with plots.

#include <fmt/core.h>

#include <memory>

#include "apps/bench/bench_commands.h"
#include "bench/gemm_lab/gemm_lab.h"
#include "bench/gemm_lab/report/performance_report.h"
#include "dualfp/io/file.h"

namespace dualfp {
namespace {

struct ReportArguments {
  std::vector<std::string> records;
  std::string output;
};

void Run(const ReportArguments& arguments) {
  const std::filesystem::path output = arguments.output;
  // Beside the page, in a folder of its name: docs/performance/ for docs/performance.md.
  const std::filesystem::path folder = output.parent_path() / output.stem();
  const std::vector<std::filesystem::path> files(arguments.records.begin(),
                                                 arguments.records.end());
  std::string command = "dualfp bench report";
  for (const std::string& record : arguments.records) {
    command += " " + record;
  }
  const Report report =
      MakePerformanceReport(ReadPerformanceRecords(files), EvaluateModel(files),
                            folder.filename().string(), command + " --output " + arguments.output);
  WritePlots(folder, report.plots);
  WriteFileAtomically(output, report.markdown);
  fmt::print("{}: {} plots in {}\n", output.string(), report.plots.size(), folder.string());
}

}  // namespace

void AddBenchReport(CLI::App& bench) {
  auto arguments = std::make_shared<ReportArguments>();
  CLI::App* command = bench.add_subcommand(
      "report", "A page with plots from recorded GPU measurements; needs no GPU");
  command->footer(
      "Example: dualfp bench report build/records/h200-*.jsonl --output docs/performance.md");
  command->add_option("RECORDS", arguments->records, "Files that bench gemm and tune wrote")
      ->required()
      ->option_text(" ");
  command->add_option("--output", arguments->output, "The page; plots go into a folder beside it")
      ->required()
      ->option_text("FILE.md");
  command->callback([arguments] { Run(*arguments); });
}

}  // namespace dualfp
