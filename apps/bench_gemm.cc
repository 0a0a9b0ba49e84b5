// dualfp bench gemm: what the GEMM kernels of this build reach on this machine.

#include <fmt/core.h>

#include "apps/commands.h"
#include "dualfp/base/cpu_features.h"
#include "dualfp/kernels/gemm.h"

namespace dualfp {

void AddBenchCommand(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "Measure this machine");
  bench->require_subcommand(1);
  CLI::App* gemm = bench->add_subcommand("gemm", "Matrix multiplication kernels");
  gemm->callback([] {
    fmt::print("{}\n", CpuDescription());
    for (const GemmKernel& kernel : GemmKernels()) {
      fmt::print("{}\n", kernel.name);
    }
  });
}

}  // namespace dualfp
