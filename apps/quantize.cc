// dualfp quantize: a checkpoint in another format.

#include <fmt/core.h>

#include <memory>
#include <string>

#include "apps/commands.h"
#include "dualfp/base/thread_pool.h"
#include "dualfp/llm/load_model.h"
#include "dualfp/quant/nested12_checkpoint.h"

namespace dualfp {
namespace {

struct QuantizeArguments {
  std::string in;
  std::string out;
  std::string scheme = "nested12";
  int threads = 0;
};

void Run(const QuantizeArguments& arguments) {
  ThreadPool threads(arguments.threads);
  const ConversionReport report =
      arguments.scheme == "bf16" ? WriteBf16Checkpoint(arguments.in, arguments.out)
                                 : WriteNested12Checkpoint(arguments.in, arguments.out, threads);
  for (const std::string& name : report.kept) {
    fmt::print("{} stays BF16: more than 1 % of its weights leave a remainder\n", name);
  }
  fmt::print("{}: {} matrices, {} instead of {} ({:.1f} %)\n", arguments.out, report.converted,
             HumanBytes(report.bytes_out), HumanBytes(report.bytes_in),
             100.0 * static_cast<double>(report.bytes_out) / static_cast<double>(report.bytes_in));
}

}  // namespace

void AddQuantizeCommand(CLI::App& app) {
  auto arguments = std::make_shared<QuantizeArguments>();
  CLI::App* command = app.add_subcommand("quantize", "Write a checkpoint in another format");
  command->footer("Example: dualfp quantize models/reference /tmp/reference-12 --scheme nested12");
  command->add_option("IN", arguments->in, "Directory with config.json and safetensors weights")
      ->required()
      ->option_text(" ");
  command->add_option("OUT", arguments->out, "Directory to write")->required()->option_text(" ");
  command
      ->add_option("--scheme", arguments->scheme,
                   "nested12: BF16 weights in 12 bits, exact; bf16: back from those")
      ->check(CLI::IsMember({"nested12", "bf16"}))
      ->option_text("{nested12,bf16}");
  command->add_option("--threads", arguments->threads, "CPU threads (default: one per core)")
      ->check(CLI::Range(1, 4096))
      ->option_text("N");
  command->callback([arguments] { Run(*arguments); });
}

}  // namespace dualfp
