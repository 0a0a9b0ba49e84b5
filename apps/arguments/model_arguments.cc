#include "apps/arguments/model_arguments.h"

#include "apps/progress_bar.h"
#include "dualfp/tensor/weight_scheme.h"

namespace dualfp {

void AddKvCacheDType(CLI::App& app, std::string& name, const std::string& group) {
  app.add_option("--kv-cache-dtype", name,
                 "auto (default): as the checkpoint says, else fp32 on the CPU")
      ->check(CLI::IsMember({"auto", "fp32", "fp16", "fp8"}))
      ->option_text("{auto,fp32,fp16,fp8}")
      ->group(group);
}

void AddModelOptions(CLI::App& app, ModelOptions& options) {
  app.add_option("MODEL", options.model, "Directory of a checkpoint, or Hub id in the local cache")
      ->required()
      ->option_text(" ");
  app.add_option("--quantization", options.quantization,
                 "How linear layers are held: auto (default), none, nested, fp8, ...")
      ->check([](const std::string& name) {
        return FindWeightScheme(name) != nullptr ? "" : "expected one of " + WeightSchemeNames();
      })
      ->option_text("SCHEME")
      ->group("Model");
  app.add_option("--quantization-ignore", options.quantization_ignore,
                 "Layers to leave as they are: names, wildcards or re:REGEX")
      ->option_text("NAME")
      ->group("Model");
  app.add_option("--quantization-layer", options.quantization_layers,
                 "NAME=SCHEME: layers held so, '*.down_proj=fp8_per_block'")
      ->option_text("N=S")
      ->group("Model");
  app.add_flag("--quantize-lm-head", options.quantize_lm_head,
               "lm_head in FP8 too; exact otherwise")
      ->group("Model");
  app.add_option("--load-format", options.load_format, "dummy: random weights for any config.json")
      ->check(CLI::IsMember({"auto", "dummy"}))
      ->option_text("{auto,dummy}")
      ->group("Model");
  app.add_option("--threads", options.threads, "CPU threads (default: one per core)")
      ->check(CLI::Range(1, 4096))
      ->option_text("N")
      ->group("Model");
}

Model LoadModelWithProgress(const ModelOptions& options, const ModelConfig& config,
                            ThreadPool& threads) {
  ProgressBar bar("Loading " + options.model);
  return LoadModel(options, config, threads,
                   [&bar](int64_t done, int64_t total) { bar.Update(done, total); });
}

}  // namespace dualfp
