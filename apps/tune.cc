// dualfp tune: times the GPU kernels' plans and writes the table that selects them.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "apps/arguments/gemm_arguments.h"
#include "apps/commands.h"
#include "apps/progress_bar.h"
#include "bench/gemm_lab/gemm_lab.h"
#include "bench/gemm_lab/report/formats.h"
#include "dualfp/base/check.h"

namespace dualfp {
namespace {

struct TuneFlags {
  TuneArguments tune;
  int n = 0;
  int k = 0;
  bool published = false;
  bool served = false;
  std::string model;
  std::vector<int> tensor_parallel = {1};
  std::vector<std::string> from;
  std::string explain;
  std::string table;
};

std::vector<GemmShape> ShapesOf(const TuneFlags& flags) {
  std::vector<GemmShape> shapes;
  if (flags.n > 0) {
    shapes.push_back(ParseShape(StrCat(flags.n, ",", flags.k)));
  }
  const auto add = [&](const std::vector<GemmShape>& more) {
    std::copy_if(more.begin(), more.end(), std::back_inserter(shapes), [&](const GemmShape& s) {
      return std::none_of(shapes.begin(), shapes.end(),
                          [&](const GemmShape& other) { return s.SameSize(other); });
    });
  };
  if (!flags.model.empty()) {
    add(ModelShapes(LoadModelConfig(flags.model), flags.model, flags.tensor_parallel));
  }
  if (flags.published) {
    add(PublishedShapes(flags.tensor_parallel));
  }
  if (flags.served) {
    add(ServedShapes());
  }
  return shapes;
}

void Run(const CLI::App& app, TuneFlags& flags) {
  if (!flags.explain.empty()) {
    const std::vector<int> sizes = ParseTriple(flags.explain);
    ExplainChoice(sizes[0], sizes[1], sizes[2], flags.tune.formats, flags.table);
    return;
  }
  if (flags.tune.output.empty()) {
    throw CLI::RequiredError("--output");
  }
  if (!flags.from.empty()) {
    WriteTable(flags.from, flags.tune.output);
    return;
  }
  if (flags.n == 0 && flags.model.empty() && !flags.published && !flags.served) {
    throw CLI::RequiredError("--n and --k, --model, --published or --served");
  }
  flags.tune.shapes = ShapesOf(flags);
  Check(!flags.tune.shapes.empty(), ErrorCode::kUnsupported, "tune: ", flags.model,
        " has no linear layer whose N and K are multiples of 16");
  if (flags.tune.log.empty()) {
    flags.tune.log = flags.tune.output + ".jsonl";
  }
  flags.tune.command = CommandLine(app);
  ProgressBar bar("Tuning", 1, "points/s");
  if (isatty(STDERR_FILENO) != 0) {
    flags.tune.progress = [&bar](int64_t done, int64_t total) { bar.Update(done, total); };
  }
  RunTune(flags.tune);
}

}  // namespace

void AddTuneCommand(CLI::App& app) {
  auto flags = std::make_shared<TuneFlags>();
  flags->tune.formats = {"nested", "fp8"};
  flags->tune.m = DefaultTunedM();
  flags->tune.top = 24;
  TuneFlags& f = *flags;
  CLI::App* command =
      app.add_subcommand("tune", "Time the GPU kernels and write the table that selects them");
  command->footer(
      "Example: dualfp tune --n 4096 --k 14336 --m 1,16:512:16 --output h200.table\n"
      "Run again after an interruption, it goes on where it was. DUALFP_TUNED_TABLE=h200.table "
      "makes\n"
      "dualfp use the table; rows of other weights still come from the built-in one.");

  constexpr const char* kWhat = "What to time";
  CLI::Option* n = command->add_option("--n", f.n, "Rows of a weight, a multiple of 16")
                       ->check(MultipleOf16())
                       ->option_text("N")
                       ->group(kWhat);
  CLI::Option* k = command->add_option("--k", f.k, "Columns of it")
                       ->check(MultipleOf16())
                       ->option_text("K")
                       ->group(kWhat);
  n->needs(k);
  k->needs(n);
  command->add_option("--model", f.model, "Linear layers of the config.json in this folder")
      ->option_text("DIR")
      ->group(kWhat);
  command->add_flag("--published", f.published, "Llama-3.1-8B, Mistral Nemo and Small, Phi-4")
      ->group(kWhat);
  command->add_flag("--served", f.served, "Those, their shards, Llama-3.x, Phi-3.5, Qwen2.5, Qwen3")
      ->group(kWhat);
  command->add_option("--tensor-parallel", f.tensor_parallel, "Shards of them (default 1)")
      ->delimiter(',')
      ->check(CLI::IsMember({1, 2, 4, 8}))
      ->option_text("1,2,4")
      ->group(kWhat);
  AddSizesOption(*command, "--m", f.tune.m, "Tokens (default 17 values in 1..4096)")->group(kWhat);
  command
      ->add_option("--format", f.tune.formats,
                   fmt::format("Of: {} (default nested,fp8)", fmt::join(TunedFormatNames(), ", ")))
      ->delimiter(',')
      ->check(CLI::IsMember(TunedFormatNames()))
      ->option_text("FORMAT,...")
      ->group(kWhat);

  constexpr const char* kHow = "How";
  command->add_option("--top", f.tune.top, "Plans to time, by the cost model (default 24; 0: all)")
      ->check(CLI::Range(0, 1 << 20))
      ->option_text("T")
      ->group(kHow);
  command->add_option("--gpus", f.tune.gpus, "GPUs to use at the same time (default all)")
      ->delimiter(',')
      ->check(CLI::Range(0, 1023))
      ->option_text("0,1")
      ->group(kHow);

  constexpr const char* kFiles = "Files";
  command->add_option("--output", f.tune.output, "The table")->option_text("FILE")->group(kFiles);
  command->add_option("--log", f.tune.log, "Finished points (default OUTPUT.jsonl)")
      ->option_text("FILE")
      ->group(kFiles);
  command->add_option("--from", f.from, "Write the table from these records; time nothing")
      ->option_text("FILE...")
      ->group(kFiles);

  constexpr const char* kExplain = "Instead";
  AddTripleOption(*command, "--explain", f.explain, "Show which plan would run, and why")
      ->option_text("N,K,M")
      ->group(kExplain);
  command->add_option("--table", f.table, "With --explain: this table before the others")
      ->option_text("FILE")
      ->group(kExplain);
  command->callback([command, flags] { Run(*command, *flags); });
}

}  // namespace dualfp
