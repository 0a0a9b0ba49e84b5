#include "apps/arguments/engine_arguments.h"

#include <string>
#include <utility>

#include "apps/arguments/model_arguments.h"
#include "apps/help_formatter.h"
#include "apps/progress_bar.h"
#include "dualfp/base/check.h"
#include "dualfp/base/log.h"

namespace dualfp {
namespace {

// What people type because another server has it: accepted, and said to mean nothing.
void AddFlagWithoutEffect(CLI::App& app, const std::string& flag, const std::string& why) {
  app.add_flag_callback(
         flag, [flag, why] { LogWarning(StrCat(flag, " has no effect: ", why)); },
         "No effect: " + why)
      ->group("");
}

}  // namespace

void AddEngineOptions(CLI::App& app, LlmOptions& options) {
  app.set_help_all_flag("--help-all", "Print every option and exit");
  AddModelOptions(app, options.model);
  const CLI::Range positive(int64_t{1}, int64_t{1} << 40);
  const std::string model = "Model";
  const std::string more_of_model = model + HelpFormatter::kMore;
  app.add_option("--device", options.device, "Where to compute (default auto)")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->option_text("{auto,cpu,cuda}")
      ->group(model);
  app.add_option("--dtype", options.dtype, "Of activations (default auto: this backend's)")
      ->option_text("DTYPE")
      ->group(more_of_model);
  app.add_option("--tokenizer", options.tokenizer, "A directory, instead of MODEL")
      ->option_text("DIR")
      ->group(more_of_model);
  app.add_option("--generation-config", options.generation_config,
                 "Sampling's defaults: auto (the model's), vllm (none)")
      ->option_text("{auto,vllm,DIR}")
      ->group(more_of_model);
  app.add_option("--max-model-len", options.max_model_len, "Context length (default: the model's)")
      ->check(positive)
      ->option_text("N")
      ->group(model);
  app.add_option("--tensor-parallel-size", options.tensor_parallel_size, "1 in this build")
      ->check(CLI::Range(1, 1024))
      ->option_text("N")
      ->group(more_of_model);
  app.add_option("--chat-template", options.chat_template, "A file, instead of the model's own")
      ->option_text("FILE")
      ->group(more_of_model);

  AddFlagWithoutEffect(app, "--trust-remote-code", "no code of a checkpoint is ever run here");
  AddFlagWithoutEffect(app, "--enforce-eager",
                       "nothing is compiled at start that it could leave out");

  const std::string batching = "Batching and cache";
  const std::string more_of_batching = batching + HelpFormatter::kMore;
  app.add_option("--max-num-seqs", options.max_num_seqs, "Sequences in a step (default 64)")
      ->check(CLI::Range(1, 65536))
      ->option_text("N")
      ->group(batching);
  app.add_option("--max-num-batched-tokens", options.max_num_batched_tokens,
                 "Tokens in a step (default 256)")
      ->check(positive)
      ->option_text("N")
      ->group(batching);
  app.add_option("--max-waiting", options.max_waiting, "Queue; more get 429 (default 1024)")
      ->check(CLI::Range(1, 1 << 20))
      ->option_text("N")
      ->group(more_of_batching);
  AddKvCacheDType(app, options.kv_cache_dtype, more_of_batching);
  app.add_option("--kv-cache-memory", options.kv_cache_gigabytes,
                 "In GB (default: by need and memory)")
      ->check(CLI::PositiveNumber)
      ->option_text("GB")
      ->group(batching);
  app.add_option("--gpu-memory-utilization", options.gpu_memory_utilization, "GPUs only")
      ->check(CLI::Range(0.0, 1.0))
      ->option_text("F")
      ->group(more_of_batching);
  app.add_option("--block-size", options.block_size, "Tokens in a KV block: 16")
      ->check(CLI::IsMember({16}))
      ->option_text("16")
      ->group(more_of_batching);
  app.add_flag("--enable-prefix-caching,!--no-enable-prefix-caching", options.enable_prefix_caching,
               "Reuse the KV of equal beginnings (on)")
      ->group(more_of_batching);
  app.add_option("--seed", options.seed, "Makes requests without a seed repeatable")
      ->option_text("N")
      ->group(more_of_batching);

  const std::string precision = "Precision";
  const std::string more_of_precision = precision + HelpFormatter::kMore;
  CLI::Option* at = app.add_option("--precision", options.precision,
                                   "auto (default), exact or fp8, to start with");
  at->check(CLI::IsMember({"auto", "exact", "fp16", "fp8"}))->option_text("MODE")->group(precision);
  app.add_option("--fp8-layers", options.fp8_layers, "Only these in FP8")
      ->delimiter(',')
      ->option_text("0,1,2")
      ->excludes(at)
      ->group(more_of_precision);
  app.add_option("--policy", options.policy, "What auto goes by: slo (default), threshold, prefill")
      ->check(CLI::IsMember({"slo", "threshold", "prefill"}))
      ->option_text("NAME")
      ->group(precision);
  app.add_option("--layer-sensitivity", options.layer_sensitivity,
                 "slo: order of layers, from eval --per-layer --json")
      ->check(CLI::ExistingFile)
      ->option_text("FILE")
      ->group(more_of_precision);
  app.add_option("--max-exact-tokens,--max-fp16-tokens", options.max_fp16_tokens,
                 "threshold: FP8 above (default 32)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->option_text("N")
      ->group(more_of_precision);
  app.add_option("--ttft-target", options.ttft_target_ms, "slo: time to first token, in ms")
      ->check(CLI::NonNegativeNumber)
      ->option_text("MS")
      ->group(precision);
  app.add_option("--tpot-target", options.tpot_target_ms, "slo: time per output token, in ms")
      ->check(CLI::NonNegativeNumber)
      ->option_text("MS")
      ->group(precision);
}

std::unique_ptr<Llm> LoadLlmWithProgress(const LlmOptions& options,
                                         std::function<void(const StepReport&)> on_step) {
  LlmHooks hooks;
  // The bar begins with the first weights and goes with the last, before anything is logged.
  hooks.progress = [label = "Loading " + options.model.model, bar = std::shared_ptr<ProgressBar>()](
                       int64_t done, int64_t total) mutable {
    if (bar == nullptr) {
      bar = std::make_shared<ProgressBar>(label);
    }
    bar->Update(done, total);
  };
  hooks.on_step = std::move(on_step);
  return LoadLlm(options, std::move(hooks));
}

}  // namespace dualfp
