// The flags of every subcommand that runs the engine, and an engine made from them.

#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/arguments/model_arguments.h"
#include "dualfp/engine/engine.h"
#include "dualfp/server/tokenizer_codec.h"

namespace dualfp {

struct EngineArguments {
  ModelArguments model;
  std::string device = "auto";
  std::string dtype = "auto";
  std::string kv_cache_dtype = "auto";
  double kv_cache_gigabytes = 0;  // 0: enough for max_num_seqs, but at most half of free memory
  double gpu_memory_utilization = 0;
  int64_t block_size = 0;
  int64_t max_model_len = 0;
  int max_num_seqs = 64;
  // On a CPU a larger step is no more efficient, and everybody waits for it.
  int64_t max_num_batched_tokens = 256;
  int max_waiting = 1024;
  bool enable_prefix_caching = true;
  int tensor_parallel_size = 1;
  std::optional<uint64_t> seed;
  std::string chat_template;

  std::string precision = "auto";
  std::vector<int> fp8_layers;
  std::string policy = "slo";
  std::string layer_sensitivity;  // a file; empty: from the middle outwards
  int64_t max_fp16_tokens = 32;
  double ttft_target_ms = 0;
  double tpot_target_ms = 0;

  void AddTo(CLI::App& app);

  // Flags that name what this build cannot do. Throws kUnsupported.
  void CheckSupported() const;
};

// A model and the engine that runs it, in the order in which they need each other.
struct LoadedEngine {
  ModelConfig config;
  GenerationConfig generation;
  std::unique_ptr<ThreadPool> threads;
  std::unique_ptr<Model> model;
  std::shared_ptr<const TokenizerCodec> text;  // null: the directory has no tokenizer
  std::unique_ptr<Engine> engine;
  int64_t kv_bytes = 0;

  // "8 layers, context 1024, KV cache 1.2 GB in 4096 blocks (fp32), precision auto (slo_slack)"
  std::string Describe(const EngineArguments& arguments) const;
};

// Shows a progress bar on a terminal. `on_step`: EngineConfig's.
std::unique_ptr<LoadedEngine> LoadEngine(const EngineArguments& arguments,
                                         std::function<void(const StepReport&)> on_step = {});

}  // namespace dualfp
