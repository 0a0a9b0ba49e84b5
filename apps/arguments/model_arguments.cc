#include "apps/arguments/model_arguments.h"

#include <fmt/core.h>

#include <algorithm>
#include <iterator>

#include "dualfp/base/check.h"
#include "dualfp/model/kv_cache.h"

namespace dualfp {
std::string HumanBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.3g} {}", value, kUnits[unit]);
}

void AddKvCacheDType(CLI::App& app, std::string& name, const std::string& group) {
  app.add_option("--kv-cache-dtype", name, "auto (default) is fp32 on the CPU")
      ->check(CLI::IsMember({"auto", "fp32", "fp16", "fp8"}))
      ->option_text("{auto,fp32,fp16,fp8}")
      ->group(group);
}

DType KvCacheDType(const std::string& name) {
  return ParseKvCacheDType(name).value_or(DType::kF32);  // "auto"
}

void ModelArguments::AddTo(CLI::App& app) {
  app.add_option("MODEL", model, "Directory with config.json and safetensors weights")
      ->required()
      ->option_text(" ");
  app.add_option("--quantization", quantization, "How linear layers are held (default auto)")
      ->check([](const std::string& name) {
        return FindWeightScheme(name) != nullptr ? "" : "expected one of " + WeightSchemeNames();
      })
      ->option_text("SCHEME: " + WeightSchemeNames())
      ->group("Model");
  app.add_flag("--quantize-lm-head", quantize_lm_head, "Nest lm_head too; plain otherwise")
      ->group("Model");
  app.add_option("--load-format", load_format, "dummy: random weights for any config.json")
      ->check(CLI::IsMember({"auto", "dummy"}))
      ->option_text("{auto,dummy}")
      ->group("Model");
  app.add_option("--threads", threads, "CPU threads (default: one per core)")
      ->check(CLI::Range(1, 4096))
      ->option_text("N")
      ->group("Model");
}

Model LoadModelWithProgress(const ModelArguments& arguments, const ModelConfig& config,
                            ThreadPool& threads) {
  ProgressBar bar("Loading " + arguments.model);
  LoadOptions options;
  options.scheme = FindWeightScheme(arguments.quantization)->scheme;
  options.nest_lm_head = arguments.quantize_lm_head;
  options.progress = [&bar](int64_t done, int64_t total) { bar.Update(done, total); };
  if (arguments.load_format == "dummy") {
    DummySource source(0);
    return LoadModel(config, source, options, threads);
  }
  CheckpointSource source(Checkpoint::Open(arguments.model));
  return LoadModel(config, source, options, threads);
}

std::string DescribeLoad(const ModelArguments& arguments, const Model& model) {
  const LoadReport& report = model.report;
  const double gigabytes = static_cast<double>(report.weight_bytes) / 1e9;
  const bool fp8_alone = report.NestedLayerLinears() == 0 && report.Fp8LayerLinears() > 0;
  return fmt::format("Loaded {}: {} in {:.2f} s ({:.2f} GB/s), {} of {} linear layers {}",
                     arguments.model, HumanBytes(report.weight_bytes), report.seconds,
                     gigabytes / std::max(1e-9, report.seconds), report.Fp8LayerLinears(),
                     report.LayerLinears(), fp8_alone ? "fp8" : "nested");
}

std::string DescribeExceptions(const Model& model) {
  int64_t count = 0;
  const LinearReport* first = nullptr;
  for (const LinearReport& linear : model.report.linears) {
    if (!linear.exception.empty() && count++ == 0) {
      first = &linear;
    }
  }
  return count == 0 ? ""
                    : fmt::format(
                          "{} of {} linear layers stay plain and compute in FP16 only; the "
                          "first is {}: {}",
                          count, model.report.LayerLinears(), first->name, first->exception);
}

}  // namespace dualfp
