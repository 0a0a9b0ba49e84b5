#include "apps/arguments/engine_arguments.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "apps/arguments/layer_sensitivity.h"
#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/engine/decoder_runner.h"
#include "dualfp/model/rope_frequencies.h"

namespace dualfp {
namespace {

constexpr auto kUnsupported = ErrorCode::kUnsupported;

// MemAvailable of /proc/meminfo; 0 where there is none.
int64_t AvailableMemory() {
  int64_t kilobytes = 0;
  if (FILE* file = std::fopen("/proc/meminfo", "r")) {
    char line[256];
    while (std::fgets(line, sizeof(line), file) != nullptr &&
           std::sscanf(line, "MemAvailable: %ld kB", &kilobytes) != 1) {
    }
    std::fclose(file);
  }
  return kilobytes * 1024;
}

// Blocks for every sequence at full length, within the memory that the flags or the machine allow.
int64_t ChooseBlocks(const EngineArguments& arguments, const Model& model, int64_t context) {
  const DType dtype = KvCacheDType(arguments.kv_cache_dtype);
  if (arguments.kv_cache_gigabytes > 0) {
    return KvBlocksInBytes(model, dtype, static_cast<int64_t>(arguments.kv_cache_gigabytes * 1e9));
  }
  const int64_t wanted = arguments.max_num_seqs * KvBlocksFor(context);
  const int64_t available = AvailableMemory();
  return available == 0 ? wanted : std::min(wanted, KvBlocksInBytes(model, dtype, available / 2));
}

PrecisionSetting InitialPrecision(const EngineArguments& arguments, int64_t num_layers) {
  PrecisionSetting setting;
  if (!arguments.fp8_layers.empty()) {
    setting.mode = PrecisionMode::kLayers;
    setting.layers.assign(static_cast<size_t>(num_layers), Precision::kFp16);
    for (const int layer : arguments.fp8_layers) {
      Check(layer >= 0 && layer < num_layers, ErrorCode::kInvalidArgument, "--fp8-layers: layer ",
            layer, " does not exist; the model has ", num_layers);
      setting.layers[static_cast<size_t>(layer)] = Precision::kFp8;
    }
  } else if (arguments.precision == "fp16") {
    setting.mode = PrecisionMode::kFp16;
  } else if (arguments.precision == "fp8") {
    setting.mode = PrecisionMode::kFp8;
  }
  return setting;
}

}  // namespace

void EngineArguments::AddTo(CLI::App& app) {
  model.AddTo(app);
  const CLI::Range positive(int64_t{1}, int64_t{1} << 40);
  constexpr const char* kModel = "Model";
  app.add_option("--device", device, "Where to compute (default auto)")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->option_text("{auto,cpu,cuda}")
      ->group(kModel);
  app.add_option("--dtype", dtype, "Of activations; auto: this backend's")
      ->option_text("auto")
      ->group(kModel);
  app.add_option("--max-model-len", max_model_len, "Context length (default: the model's)")
      ->check(positive)
      ->option_text("N")
      ->group(kModel);
  app.add_option("--tensor-parallel-size", tensor_parallel_size, "1 in this build")
      ->check(CLI::Range(1, 1024))
      ->option_text("N")
      ->group(kModel);
  app.add_option("--chat-template", chat_template, "A file, instead of the model's own")
      ->option_text("FILE")
      ->group(kModel);

  constexpr const char* kBatch = "Batching and cache";
  app.add_option("--max-num-seqs", max_num_seqs, "Sequences in a step (default 64)")
      ->check(CLI::Range(1, 65536))
      ->option_text("N")
      ->group(kBatch);
  app.add_option("--max-num-batched-tokens", max_num_batched_tokens,
                 "Tokens in a step (default 256)")
      ->check(positive)
      ->option_text("N")
      ->group(kBatch);
  app.add_option("--max-waiting", max_waiting, "Queue; more get 429 (default 1024)")
      ->check(CLI::Range(1, 1 << 20))
      ->option_text("N")
      ->group(kBatch);
  AddKvCacheDType(app, kv_cache_dtype, kBatch);
  app.add_option("--kv-cache-memory", kv_cache_gigabytes, "In GB (default: by need and memory)")
      ->check(CLI::PositiveNumber)
      ->option_text("GB")
      ->group(kBatch);
  app.add_option("--gpu-memory-utilization", gpu_memory_utilization, "GPUs only")
      ->check(CLI::Range(0.0, 1.0))
      ->option_text("F")
      ->group(kBatch);
  app.add_option("--block-size", block_size, "Tokens in a KV block: 16")
      ->check(CLI::IsMember({16}))
      ->option_text("16")
      ->group(kBatch);
  app.add_flag("--enable-prefix-caching,!--no-enable-prefix-caching", enable_prefix_caching,
               "Reuse the KV of equal beginnings (on)")
      ->group(kBatch);
  app.add_option("--seed", seed, "Makes requests without a seed repeatable")
      ->option_text("N")
      ->group(kBatch);

  constexpr const char* kPrecision = "Precision";
  CLI::Option* at = app.add_option("--precision", precision, "To start with (default auto)");
  at->check(CLI::IsMember({"auto", "fp16", "fp8"}))
      ->option_text("{auto,fp16,fp8}")
      ->group(kPrecision);
  app.add_option("--fp8-layers", fp8_layers, "Only these in FP8")
      ->delimiter(',')
      ->option_text("0,1,2")
      ->excludes(at)
      ->group(kPrecision);
  app.add_option("--policy", policy, "What auto goes by (default slo)")
      ->check(CLI::IsMember({"slo", "threshold"}))
      ->option_text("{slo,threshold}")
      ->group(kPrecision);
  app.add_option("--layer-sensitivity", layer_sensitivity,
                 "slo: order of layers, from eval --per-layer --json")
      ->check(CLI::ExistingFile)
      ->option_text("FILE")
      ->group(kPrecision);
  app.add_option("--max-fp16-tokens", max_fp16_tokens, "threshold: FP8 above (default 32)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->option_text("N")
      ->group(kPrecision);
  app.add_option("--ttft-target", ttft_target_ms, "slo: time to first token, in ms")
      ->check(CLI::NonNegativeNumber)
      ->option_text("MS")
      ->group(kPrecision);
  app.add_option("--tpot-target", tpot_target_ms, "slo: time per output token, in ms")
      ->check(CLI::NonNegativeNumber)
      ->option_text("MS")
      ->group(kPrecision);
}

void EngineArguments::CheckSupported() const {
  Check(device != "cuda", kUnsupported, "--device cuda: this build serves on the CPU only");
  Check(dtype == "auto", kUnsupported, "--dtype ", dtype,
        ": the CPU backend computes in its own dtype; leave it at auto");
  Check(tensor_parallel_size == 1, kUnsupported, "--tensor-parallel-size ", tensor_parallel_size,
        ": this build runs a model in one process");
}

std::string LoadedEngine::Describe(const EngineArguments& arguments) const {
  const RunnerInfo& info = engine->info();
  const PrecisionStatus status = engine->GetPrecision();
  return fmt::format("{} layers, context {}, KV cache {} in {} blocks ({}), precision: {}",
                     info.num_layers, info.max_model_len, HumanBytes(kv_bytes), info.num_blocks,
                     DTypeName(KvCacheDType(arguments.kv_cache_dtype)), status.controller);
}

std::unique_ptr<LoadedEngine> LoadEngine(const EngineArguments& arguments,
                                         std::function<void(const StepReport&)> on_step) {
  arguments.CheckSupported();
  if (arguments.gpu_memory_utilization > 0) {
    LogWarning("--gpu-memory-utilization has no effect on the CPU: see --kv-cache-memory");
  }
  auto loaded = std::make_unique<LoadedEngine>();
  const std::filesystem::path directory = arguments.model.model;
  loaded->config = LoadModelConfig(directory);
  loaded->generation = LoadGenerationConfig(directory);
  if (std::filesystem::exists(directory / "tokenizer.json")) {
    std::optional<std::filesystem::path> chat_template;
    if (!arguments.chat_template.empty()) {
      chat_template = arguments.chat_template;
    }
    loaded->text = TokenizerCodec::FromDirectory(directory, chat_template);
    Check(loaded->text->tokenizer().id_limit() <= loaded->config.vocab_size,
          ErrorCode::kInvalidFile, arguments.model.model, ": the tokenizer has ids up to ",
          loaded->text->tokenizer().id_limit() - 1, ", the model's vocabulary only ",
          loaded->config.vocab_size);
  } else {
    LogWarning(StrCat(arguments.model.model,
                      " has no tokenizer.json: prompts and answers are token ids only"));
  }
  const int64_t num_layers = loaded->config.num_hidden_layers;
  const PrecisionSetting precision = InitialPrecision(arguments, num_layers);
  std::vector<int> layer_order;
  if (!arguments.layer_sensitivity.empty()) {
    layer_order = LayersBySensitivity(arguments.layer_sensitivity, num_layers);
  }

  loaded->threads = std::make_unique<ThreadPool>(arguments.model.threads);
  loaded->model = std::make_unique<Model>(
      LoadModelWithProgress(arguments.model, loaded->config, *loaded->threads));
  LogInfo(DescribeLoad(arguments.model, *loaded->model));
  if (const std::string exceptions = DescribeExceptions(*loaded->model); !exceptions.empty()) {
    LogWarning(exceptions);
  }

  const int64_t context =
      arguments.max_model_len > 0 ? arguments.max_model_len : MaxContextLength(loaded->config);
  DecoderRunnerConfig runner_config;
  runner_config.num_blocks = ChooseBlocks(arguments, *loaded->model, context);
  runner_config.kv_dtype = KvCacheDType(arguments.kv_cache_dtype);
  runner_config.max_model_len = arguments.max_model_len;
  runner_config.max_num_seqs = arguments.max_num_seqs;
  runner_config.max_num_batched_tokens =
      std::max<int64_t>(arguments.max_num_batched_tokens, arguments.max_num_seqs);
  auto runner =
      std::make_unique<DecoderRunner>(*loaded->model, runner_config, loaded->threads.get());
  loaded->kv_bytes = runner->kv_bytes();

  EngineConfig config;
  config.max_num_batched_tokens = runner_config.max_num_batched_tokens;
  config.max_num_seqs = arguments.max_num_seqs;
  config.max_waiting = arguments.max_waiting;
  config.enable_prefix_caching = arguments.enable_prefix_caching;
  config.eos_token_ids = loaded->config.eos_token_ids;
  for (const int32_t id : loaded->generation.eos_token_ids) {
    if (std::find(config.eos_token_ids.begin(), config.eos_token_ids.end(), id) ==
        config.eos_token_ids.end()) {
      config.eos_token_ids.push_back(id);
    }
  }
  config.default_ttft_target = arguments.ttft_target_ms / 1e3;
  config.default_tpot_target = arguments.tpot_target_ms / 1e3;
  config.threads = loaded->threads.get();
  config.seed = arguments.seed;
  config.on_step = std::move(on_step);
  SloSlackOptions slo;
  slo.layer_order = std::move(layer_order);
  auto controller = arguments.policy == "threshold"
                        ? MakeThresholdController(arguments.max_fp16_tokens)
                        : MakeSloSlackController(static_cast<int>(num_layers), std::move(slo));
  loaded->engine = std::make_unique<Engine>(std::move(config), std::move(runner), loaded->text,
                                            std::move(controller), precision);
  return loaded;
}

}  // namespace dualfp
