// dualfp quantize: a checkpoint in another format.

#include <fmt/core.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/commands.h"
#include "apps/progress_bar.h"
#include "dualfp/base/thread_pool.h"
#include "dualfp/llm/load_model.h"
#include "dualfp/quant/quantize_checkpoint.h"

namespace dualfp {
namespace {

struct QuantizeArguments {
  std::string in;
  std::string out;
  QuantizeOptions options;
  std::string division = "producer";
  std::string scale_search = "amax";
  std::string kv_cache = "none";
  std::string observer = "amax";
  int threads = 0;
};

void PrintCalibration(const CalibrationResult& calibration) {
  if (calibration.layers.empty()) {
    return;
  }
  size_t width = 5;
  for (const ScaleReport& layer : calibration.layers) {
    width = std::max(width, layer.name.size());
  }
  fmt::print("{} samples, {} tokens\n{:<{}}  {:>12}  {:>12}  {:>9}\n", calibration.samples,
             calibration.tokens, "input", width, "largest", "scale", "clipped");
  for (const ScaleReport& layer : calibration.layers) {
    fmt::print("{:<{}}  {:>12.6g}  {:>12.6g}  {:>7.4f} %\n", layer.name, width, layer.amax,
               layer.scale, 100 * layer.clipped_share);
  }
}

void Run(QuantizeArguments& arguments) {
  ThreadPool threads(arguments.threads);
  QuantizeOptions& options = arguments.options;
  options.division = arguments.division == "fp32" ? Division::kFloat : Division::kProducer;
  options.search = arguments.scale_search == "mse" ? ScaleSearch::kMse : ScaleSearch::kAmax;
  options.fp8_kv_cache = arguments.kv_cache == "fp8";
  options.observer = *ParseScaleObserver(arguments.observer);
  QuantizeReport whole;
  {
    ProgressBar calibrating("calibrate", 1, "samples/s");
    std::optional<ProgressBar> converting;  // its time begins with its first bytes
    whole = QuantizeCheckpoint(
        arguments.in, arguments.out, options, threads,
        [&](int64_t done, int64_t total) { calibrating.Update(done, total); },
        [&](int64_t done, int64_t total) {
          if (!converting) {
            converting.emplace("quantize");
          }
          converting->Update(done, total);
        });
  }
  PrintCalibration(whole.calibration);
  const ConversionReport& report = whole.conversion;
  for (const KeptLayer& kept : report.kept) {
    fmt::print("{} stays as it is: {}\n", kept.module, kept.reason);
  }
  if (report.tasks_resumed > 0) {
    fmt::print("{} tensors were there from an interrupted run\n", report.tasks_resumed);
  }
  fmt::print("{}: {} matrices, {} instead of {} ({:.1f} %)\n", arguments.out, report.converted,
             HumanBytes(report.bytes_out), HumanBytes(report.bytes_in),
             100.0 * static_cast<double>(report.bytes_out) / static_cast<double>(report.bytes_in));
}

std::string JoinNames(const std::vector<std::string>& names) {
  std::string joined;
  for (const std::string& name : names) {
    joined += (joined.empty() ? "{" : ",") + name;
  }
  return joined + "}";
}

}  // namespace

void AddQuantizeCommand(CLI::App& app) {
  auto arguments = std::make_shared<QuantizeArguments>();
  QuantizeOptions& options = arguments->options;
  CLI::App* command = app.add_subcommand("quantize", "Write a checkpoint in another format");
  command->footer(
      "Example: dualfp quantize models/reference /tmp/reference-FP8 --scheme fp8-channel");
  command->add_option("IN", arguments->in, "Directory with config.json and safetensors weights")
      ->required()
      ->option_text(" ");
  command->add_option("OUT", arguments->out, "Directory to write")->required()->option_text(" ");
  command
      ->add_option(
          "--scheme", options.scheme,
          "fp8-channel: E4M3 with a scale per output channel, inputs scaled per token "
          "(recommended); fp8, fp8-dynamic, fp8-static: a scale per tensor; fp8-block: per "
          "128x128 block; mxfp8: per 32 along K; nested: FP16 in two planes, the upper one "
          "FP8; nested12: BF16 in 12 bits, exact; fp8-from-nested: the upper planes of "
          "those; bf16, fp16: back from what is quantized")
      ->check(CLI::IsMember(QuantizeSchemeNames()))
      ->option_text(JoinNames(QuantizeSchemeNames()));
  command
      ->add_option("--quant-method", options.method,
                   "Whose names and config: fp8 (AutoFP8, DeepSeek), compressed-tensors, modelopt "
                   "(default: the scheme's usual one)")
      ->check(CLI::IsMember({"fp8", "compressed-tensors", "modelopt"}))
      ->option_text("{fp8,compressed-tensors,modelopt}");
  command
      ->add_option("--ignore", options.ignore,
                   "Layers that stay in 16 bits, beside lm_head and routers: names, wildcards or "
                   "re:EXPRESSION; may be repeated")
      ->option_text("PATTERN");
  command->add_option("--recipe", options.recipe, "JSON file with schemes by pattern of layer")
      ->option_text("FILE");
  command
      ->add_option("--scale-search", arguments->scale_search,
                   "amax: the largest weight becomes 448; mse: the scale of least squared error")
      ->check(CLI::IsMember({"amax", "mse"}))
      ->option_text("{amax,mse}");
  command
      ->add_option("--division", arguments->division,
                   "producer: quotients are rounded as the format's own tool does; fp32: not")
      ->check(CLI::IsMember({"producer", "fp32"}))
      ->option_text("{producer,fp32}");
  command->add_flag("--ue8m0", options.ue8m0, "fp8-block: scales are powers of two");
  CLI::Option* calibration =
      command
          ->add_option("--calibration", options.calibration,
                       "Data for static scales: JSON lines with messages or text, or a text")
          ->option_text("FILE.{jsonl,txt}");
  command
      ->add_option("--calibration-samples", options.calibration_limits.max_samples,
                   "Samples that are read at most (default: 512)")
      ->check(CLI::Range(1, 1 << 30))
      ->needs(calibration)
      ->option_text("N");
  command
      ->add_option("--calibration-length", options.calibration_limits.max_tokens,
                   "Tokens of a sample that are read (default: 2048, or the model's context)")
      ->check(CLI::Range(1, 1 << 30))
      ->needs(calibration)
      ->option_text("N");
  command
      ->add_option("--observer", arguments->observer,
                   "Static scales from the largest input, a percentile, or the least squared error")
      ->check(CLI::IsMember({"amax", "percentile", "mse"}))
      ->needs(calibration)
      ->option_text("{amax,percentile,mse}");
  command
      ->add_option("--percentile", options.percentile,
                   "Share of inputs that --observer percentile does not clip (default: 0.9999)")
      ->check(CLI::Range(0.5, 1.0))
      ->needs(calibration)
      ->option_text("P");
  command
      ->add_option("--kv-cache", arguments->kv_cache,
                   "fp8: scales of keys (after RoPE) and values, by calibration")
      ->check(CLI::IsMember({"none", "fp8"}))
      ->option_text("{none,fp8}");
  command->add_option("--threads", arguments->threads, "CPU threads (default: one per core)")
      ->check(CLI::Range(1, 4096))
      ->option_text("N");
  command->callback([arguments] { Run(*arguments); });
}

}  // namespace dualfp
