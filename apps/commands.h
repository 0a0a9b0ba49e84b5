// The subcommands of dualfp, one file each. Add...() declares a subcommand's flags on `app` and
// the callback that runs it; errors leave the callback as exceptions and main() prints them.

#pragma once

#include <CLI/CLI.hpp>

namespace dualfp {

void AddGenerateCommand(CLI::App& app);  // generate.cc
void AddEvalCommand(CLI::App& app);      // eval.cc
void AddInspectCommand(CLI::App& app);   // inspect.cc
void AddBenchCommand(CLI::App& app);     // bench/bench.cc
void AddQuantizeCommand(CLI::App& app);  // quantize.cc
void AddServeCommand(CLI::App& app);     // serve.cc
void AddTuneCommand(CLI::App& app);      // tune.cc

}  // namespace dualfp
