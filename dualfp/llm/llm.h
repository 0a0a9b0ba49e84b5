// A model ready to use: its weights, its tokenizer and chat template, and the engine that runs it.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dualfp/engine/engine.h"
#include "dualfp/llm/load_model.h"
#include "dualfp/llm/tokenizer_codec.h"

namespace dualfp {

struct LlmOptions {
  ModelOptions model;
  std::string device = "auto";  // "auto", "cpu", "cuda"
  std::string dtype = "auto";   // of activations; see CheckSupported()
  std::string kv_cache_dtype = "auto";
  double kv_cache_gigabytes = 0;  // 0: enough for max_num_seqs, but at most half of free memory
  double gpu_memory_utilization = 0;
  int64_t block_size = 0;
  int64_t max_model_len = 0;  // 0: the model's context
  int max_num_seqs = 64;
  // On a CPU a larger step is no more efficient, and everybody waits for it.
  int64_t max_num_batched_tokens = 256;
  int max_waiting = 1024;
  bool enable_prefix_caching = true;
  int tensor_parallel_size = 1;
  std::optional<uint64_t> seed;
  std::string chat_template;  // a file, instead of the model's own
  std::string tokenizer;      // a directory or Hub id, instead of the model
  // Where the defaults of sampling come from: "auto" (the model), "vllm" (the API's own), or a
  // directory with a generation_config.json.
  std::string generation_config = "auto";

  std::string precision = "auto";  // to start with: "auto", "exact" (alias "fp16"), "fp8"
  std::vector<int> fp8_layers;     // not empty: these in FP8, the others in FP16
  // What "auto" goes by: "slo", "threshold", or "prefill" (prompts in FP8, the rest exact).
  std::string policy = "slo";
  std::string layer_sensitivity;  // a file; empty: from the middle outwards
  int64_t max_fp16_tokens = 32;   // threshold: FP8 above
  double ttft_target_ms = 0;
  double tpot_target_ms = 0;
};

// Throws kUnsupported for what this build cannot do. A dtype by one of vLLM's names is accepted,
// and said to have no effect where the backend computes in its own.
void CheckSupported(const LlmOptions& options);

// In the order in which the members need each other.
struct Llm {
  ModelConfig config;
  GenerationConfig generation;
  std::unique_ptr<ThreadPool> threads;
  std::unique_ptr<Model> model;
  std::shared_ptr<const TokenizerCodec> text;  // null: the directory has no tokenizer
  std::unique_ptr<Engine> engine;
  DType kv_dtype = DType::kF32;
  int64_t kv_bytes = 0;

  // "8 layers, context 1024, KV cache 1.2 GB in 4096 blocks (fp32), precision auto (slo_slack)"
  std::string Describe() const;
};

struct LlmHooks {
  LoadProgress progress;
  std::function<void(const StepReport&)> on_step;  // EngineConfig's
};

// Throws what CheckSupported() and LoadModel() throw, kInvalidArgument for a layer that the model
// does not have, and kInvalidFile for a tokenizer of another vocabulary.
std::unique_ptr<Llm> LoadLlm(LlmOptions options, LlmHooks hooks = {});

}  // namespace dualfp
