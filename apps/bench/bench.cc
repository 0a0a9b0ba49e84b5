// dualfp bench: the subcommands below it.

#include "apps/bench/bench_commands.h"
#include "apps/commands.h"

namespace dualfp {

void AddBenchCommand(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "Measure kernels, the engine, or a server");
  bench->require_subcommand(1);
  AddBenchServe(*bench);
  AddBenchThroughput(*bench);
  AddBenchLatency(*bench);
  AddBenchGemm(*bench);
  AddBenchReport(*bench);
}

}  // namespace dualfp
