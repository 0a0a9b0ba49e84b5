// dualfp bench gemm: what the GEMM kernels of this build reach on this machine.

#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "apps/arguments/gemm_arguments.h"
#include "apps/bench/bench_commands.h"
#include "bench/gemm_lab/cpu/cpu_bench.h"
#include "bench/gemm_lab/cpu/rotated_weights.h"
#include "bench/gemm_lab/gemm_lab.h"
#include "bench/gemm_lab/report/formats.h"
#include "dualfp/base/check.h"

namespace dualfp {
namespace {

struct GemmFlags {
  std::string device = "cpu";
  CpuBenchArguments cpu;
  GpuBenchArguments gpu;
};

// The shapes, sizes and formats that --device cuda measures unless flags say otherwise.
void RunOnGpu(const CLI::App& command, const GemmFlags& flags) {
  GpuBenchArguments gpu = flags.gpu;
  gpu.json = flags.cpu.json;
  gpu.command = CommandLine(command);
  if (command.count("--n") + command.count("--k") > 0) {
    gpu.shapes.push_back(ParseShape(StrCat(flags.cpu.n, ",", flags.cpu.k)));
  } else if (gpu.shapes.empty()) {
    gpu.shapes = SummaryShapes();
  }
  gpu.m = {1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
  if (command.count("--m") > 0) {
    gpu.m = flags.cpu.m;
  }
  gpu.formats = command.count("--format") > 0 ? flags.cpu.formats : FormatNames();
  for (std::string& name : gpu.formats) {
    // As on CPUs: the upper planes are FP8 weights.
    name = name == "nested-fp8" ? "fp8" : name;
    if (FindFormat(name) == nullptr) {
      throw CLI::ValidationError("--format", fmt::format("{} is not measured on GPUs; expected {}",
                                                         name, fmt::join(FormatNames(), ", ")));
    }
  }
  RunGpuGemmBench(gpu);
}

// The names, with line breaks where a screen needs them.
std::string Lines(const std::vector<std::string>& names) {
  constexpr size_t kWidth = 100;
  std::string text;
  size_t line_begin = 0;
  for (const std::string& name : names) {
    const bool full = text.size() + name.size() - line_begin > kWidth;
    text += text.empty() ? "" : full ? ",\n  " : ", ";
    line_begin = full ? text.size() : line_begin;
    text += name;
  }
  return text;
}

void CheckGpuFlagsUnused(const CLI::App& command) {
  for (const char* flag : {"--shape", "--top", "--plot"}) {
    if (command.count(flag) > 0) {
      throw CLI::ValidationError(flag, "needs --device cuda");
    }
  }
}

}  // namespace

void AddBenchGemm(CLI::App& bench) {
  CLI::App* gemm = bench.add_subcommand(
      "gemm",
      "Y[M,N] = X[M,K] W[N,K]^T: speed beside the machine's measured ceilings (on GPUs: beside "
      "cuBLASLt), and the error against FP64");
  gemm->footer(fmt::format(
      "Example: dualfp bench gemm --device cuda --shape 4096,14336 --m 1,16,256 --plot "
      "plots\n"
      "Formats on CPUs: {}\n"
      "Formats on GPUs: {}\n"
      "GPU formats are timed beside cuBLASLt in the same type; DUALFP_CUBLASLT names its library.",
      Lines(CpuFormatNames()), Lines(FormatNames())));
  auto flags = std::make_shared<GemmFlags>();
  CpuBenchArguments& a = flags->cpu;
  constexpr const char* kWhat = "What to measure";
  gemm->add_option("--device", flags->device, "Where (default cpu)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->option_text("{cpu,cuda}")
      ->group(kWhat);
  gemm->add_option("--n", a.n, "Rows of W (default 4096)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->option_text("N")
      ->group(kWhat);
  gemm->add_option("--k", a.k, "Columns of W (default 4096)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->option_text("K")
      ->group(kWhat);
  AddSizesOption(*gemm, "--m", a.m, "Rows of X (default 1,8,64,512)")->group(kWhat);
  gemm->add_option("--format", a.formats, "Of those below (default on CPUs f16,nested,nested-fp8)")
      ->delimiter(',')
      ->option_text("FORMAT,...")
      ->group(kWhat);
  gemm->add_option("--json", a.json, "Write the results to this file, too")
      ->option_text("FILE")
      ->group("Output");

  constexpr const char* kCpu = "On CPUs";
  gemm->add_option("--threads", a.threads, "Threads (default one a core)")
      ->check(CLI::Range(0, 4096))
      ->option_text("T")
      ->group(kCpu);
  gemm->add_option("--seconds", a.seconds, "Time for each M (default 3)")
      ->check(CLI::Range(0.0, 3600.0))
      ->option_text("S")
      ->group(kCpu);
  gemm->add_option("--clock", a.clock, "cpu: without what others took (with --threads 1)")
      ->check(CLI::IsMember({"wall", "cpu"}))
      ->option_text("{wall,cpu}")
      ->group(kCpu);
  gemm->add_flag("--all-kernels", a.all_kernels, "Also kernels that would not be chosen")
      ->group(kCpu);

  constexpr const char* kGpu = "On GPUs (default six shapes, M = 1,16,...,4096, all formats)";
  AddShapesOption(*gemm, "--shape", flags->gpu.shapes, "Another weight; repeatable")->group(kGpu);
  gemm->add_option("--top", flags->gpu.top, "Best of so many plans (default: the chosen one)")
      ->check(CLI::Range(1, 1 << 20))
      ->option_text("T")
      ->group(kGpu);
  gemm->add_option("--plot", flags->gpu.plots, "Draw TFLOP/s and GB/s over M as SVG here")
      ->option_text("DIR")
      ->group(kGpu);
  gemm->callback([gemm, flags] {
    if (flags->device == "cuda") {
      RunOnGpu(*gemm, *flags);
    } else {
      CheckGpuFlagsUnused(*gemm);
      RunCpuGemmBench(flags->cpu);
    }
  });
}

}  // namespace dualfp
