#include "dualfp/llm/llm.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <string_view>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/engine/decoder_runner.h"
#include "dualfp/io/file.h"
#include "dualfp/io/hub_cache.h"
#include "dualfp/io/json.h"
#include "dualfp/llm/layer_sensitivity.h"
#include "dualfp/model/rope_frequencies.h"

namespace dualfp {
namespace {

constexpr auto kUnsupported = ErrorCode::kUnsupported;
constexpr int64_t kMaxConfigBytes = 1 << 20;

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

// Blocks for every sequence at full length, within the memory that the options or the machine
// allow.
int64_t ChooseBlocks(const LlmOptions& options, const Model& model, DType dtype, int64_t context) {
  if (options.kv_cache_gigabytes > 0) {
    return KvBlocksInBytes(model, dtype, static_cast<int64_t>(options.kv_cache_gigabytes * 1e9));
  }
  const int64_t wanted = options.max_num_seqs * KvBlocksFor(context);
  const int64_t available = AvailableMemory();
  return available == 0 ? wanted : std::min(wanted, KvBlocksInBytes(model, dtype, available / 2));
}

PrecisionSetting InitialPrecision(const LlmOptions& options, int64_t num_layers) {
  PrecisionSetting setting;
  if (!options.fp8_layers.empty()) {
    setting.mode = PrecisionMode::kLayers;
    setting.layers.assign(static_cast<size_t>(num_layers), Precision::kExact);
    for (const int layer : options.fp8_layers) {
      Check(layer >= 0 && layer < num_layers, ErrorCode::kInvalidArgument, "--fp8-layers: layer ",
            layer, " does not exist; the model has ", num_layers);
      setting.layers[static_cast<size_t>(layer)] = Precision::kFp8;
    }
  } else if (options.precision == "exact" || options.precision == "fp16") {
    setting.mode = PrecisionMode::kExact;
  } else if (options.precision == "fp8") {
    setting.mode = PrecisionMode::kFp8;
  }
  return setting;
}

// nullptr where the directory has no tokenizer.
std::shared_ptr<const TokenizerCodec> LoadText(const LlmOptions& options) {
  const std::string directory =
      FindModelDirectory(options.tokenizer.empty() ? options.model.model : options.tokenizer)
          .string();
  if (!std::filesystem::exists(std::filesystem::path(directory) / "tokenizer.json")) {
    LogWarning(StrCat(directory, " has no tokenizer.json: prompts and answers are token ids only"));
    return nullptr;
  }
  std::optional<std::filesystem::path> chat_template;
  if (!options.chat_template.empty()) {
    chat_template = options.chat_template;
  }
  return TokenizerCodec::FromDirectory(directory, chat_template);
}

GenerationConfig LoadGeneration(const LlmOptions& options) {
  const bool from_model = options.generation_config == "auto";
  if (!from_model && options.generation_config != "vllm") {
    const std::filesystem::path directory = options.generation_config;
    Check(std::filesystem::exists(directory / "generation_config.json"), ErrorCode::kNotFound,
          "--generation-config ", options.generation_config,
          ": expected auto, vllm, or a directory with a generation_config.json");
    return LoadGenerationConfig(directory);
  }
  if (from_model) {
    return LoadGenerationConfig(options.model.model);
  }
  // What ends an answer is the model's all the same.
  const std::filesystem::path file =
      std::filesystem::path(options.model.model) / "generation_config.json";
  Json ends = Json::object();
  if (std::filesystem::exists(file)) {
    const Json all = ParseJson(ReadFile(file, kMaxConfigBytes), file.string());
    if (const auto found = all.find("eos_token_id"); found != all.end()) {
      ends["eos_token_id"] = *found;
    }
  }
  return ParseGenerationConfig(ends, file.string());
}

std::unique_ptr<PrecisionController> MakeController(const LlmOptions& options, int num_layers) {
  if (options.policy == "threshold") {
    return MakeThresholdController(options.max_fp16_tokens);
  }
  if (options.policy == "prefill") {
    return MakePhasedController(PrecisionPlan::Uniform(num_layers, Precision::kFp8),
                                PrecisionPlan::Uniform(num_layers, Precision::kExact));
  }
  SloSlackOptions slo;
  if (!options.layer_sensitivity.empty()) {
    slo.layer_order = LayersBySensitivity(options.layer_sensitivity, num_layers);
  }
  return MakeSloSlackController(num_layers, std::move(slo));
}

}  // namespace

void CheckSupported(const LlmOptions& options) {
  Check(options.device != "cuda", kUnsupported, "--device cuda: this build serves on the CPU only");
  constexpr std::string_view kDtypes[] = {"auto",     "half",    "float16",
                                          "bfloat16", "float32", "float"};
  Check(std::find(std::begin(kDtypes), std::end(kDtypes), options.dtype) != std::end(kDtypes),
        kUnsupported, "--dtype ", options.dtype,
        ": expected auto, half, float16, bfloat16, float or float32");
  Check(options.tensor_parallel_size == 1, kUnsupported, "--tensor-parallel-size ",
        options.tensor_parallel_size, ": this build runs a model in one process");
}

std::string Llm::Describe() const {
  const RunnerInfo& info = engine->info();
  const PrecisionStatus status = engine->GetPrecision();
  return fmt::format("{} layers, context {}, KV cache {} in {} blocks ({}), precision: {}",
                     info.num_layers, info.max_model_len, HumanBytes(kv_bytes), info.num_blocks,
                     DTypeName(kv_dtype), status.controller);
}

std::unique_ptr<Llm> LoadLlm(LlmOptions options, LlmHooks hooks) {
  CheckSupported(options);
  options.model.model = FindModelDirectory(options.model.model).string();
  if (options.dtype != "auto") {
    LogWarning(StrCat("--dtype ", options.dtype,
                      " has no effect on the CPU, which computes activations in float32; weights "
                      "keep what they are stored in: see --quantization"));
  }
  if (options.gpu_memory_utilization > 0) {
    LogWarning("--gpu-memory-utilization has no effect on the CPU: see --kv-cache-memory");
  }
  auto llm = std::make_unique<Llm>();
  llm->config = LoadModelConfig(options.model.model);
  llm->generation = LoadGeneration(options);
  llm->kv_dtype = KvCacheDType(options.kv_cache_dtype, llm->config);
  llm->text = LoadText(options);
  const int64_t num_layers = llm->config.num_hidden_layers;
  const PrecisionSetting precision = InitialPrecision(options, num_layers);
  auto controller = MakeController(options, static_cast<int>(num_layers));

  llm->threads = std::make_unique<ThreadPool>(options.model.threads);
  llm->model = std::make_unique<Model>(
      LoadModel(options.model, llm->config, *llm->threads, std::move(hooks.progress)));
  LogInfo(DescribeLoad(options.model, *llm->model));
  for (const std::string& warning : LoadWarnings(*llm->model)) {
    LogWarning(warning);
  }

  const int64_t context =
      options.max_model_len > 0 ? options.max_model_len : MaxContextLength(llm->config);
  DecoderRunnerConfig runner_config;
  runner_config.num_blocks = ChooseBlocks(options, *llm->model, llm->kv_dtype, context);
  runner_config.kv_dtype = llm->kv_dtype;
  runner_config.max_model_len = options.max_model_len;
  if (llm->text != nullptr) {
    runner_config.drawable_tokens = DrawableTokens(llm->text->tokenizer(), llm->config);
  }
  runner_config.max_num_seqs = options.max_num_seqs;
  runner_config.max_num_batched_tokens =
      std::max<int64_t>(options.max_num_batched_tokens, options.max_num_seqs);
  auto runner = std::make_unique<DecoderRunner>(*llm->model, runner_config, llm->threads.get());
  llm->kv_bytes = runner->kv_bytes();

  EngineConfig config;
  config.max_num_batched_tokens = runner_config.max_num_batched_tokens;
  config.max_num_seqs = options.max_num_seqs;
  config.max_waiting = options.max_waiting;
  config.enable_prefix_caching = options.enable_prefix_caching;
  config.eos_token_ids =
      EndTokenIds(llm->config, llm->generation,
                  llm->text != nullptr ? llm->text->tokenizer().eos_id() : std::nullopt);
  config.default_ttft_target = options.ttft_target_ms / 1e3;
  config.default_tpot_target = options.tpot_target_ms / 1e3;
  config.seed = options.seed;
  config.on_step = std::move(hooks.on_step);
  llm->engine = std::make_unique<Engine>(std::move(config), std::move(runner), llm->text,
                                         std::move(controller), precision);
  return llm;
}

}  // namespace dualfp
