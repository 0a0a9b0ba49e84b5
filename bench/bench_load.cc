// bench_load [--directory DIR]: how fast a checkpoint in the page cache becomes nested planes, and
// how much memory that takes at most.
//
// Writes a BF16 checkpoint of TinyLlama's shape with random weights (2.2 GB) to a new directory
// under DIR, loads it with one thread and with every core, and removes it.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/base/cpu_features.h"
#include "dualfp/base/thread_pool.h"
#include "dualfp/io/hf_config.h"
#include "dualfp/io/safetensors_writer.h"
#include "dualfp/model/weights.h"
#include "dualfp/numeric/bf16.h"

namespace dualfp {
namespace {

namespace fs = std::filesystem;

std::vector<TensorSpec> LlamaTensors(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.num_attention_heads * config.head_dim;
  const int64_t kv = config.num_key_value_heads * config.head_dim;
  const int64_t ffn = config.intermediate_size;
  std::vector<TensorSpec> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    tensors.push_back({name + ".weight", DType::kBF16, std::move(shape)});
  };
  add("model.embed_tokens", {config.vocab_size, hidden});
  for (int i = 0; i < config.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    add(layer + "input_layernorm", {hidden});
    add(layer + "self_attn.q_proj", {q, hidden});
    add(layer + "self_attn.k_proj", {kv, hidden});
    add(layer + "self_attn.v_proj", {kv, hidden});
    add(layer + "self_attn.o_proj", {hidden, q});
    add(layer + "post_attention_layernorm", {hidden});
    add(layer + "mlp.gate_proj", {ffn, hidden});
    add(layer + "mlp.up_proj", {ffn, hidden});
    add(layer + "mlp.down_proj", {hidden, ffn});
  }
  add("model.norm", {hidden});
  add("lm_head", {config.vocab_size, hidden});
  return tensors;
}

// Bell-shaped values of a standard deviation of 0.02, as trained weights have, with no outlier.
void WriteCheckpoint(const fs::path& directory) {
  const fs::path shape = fs::path(DUALFP_SHAPES_DIR) / "1b";
  const ModelConfig config = LoadModelConfig(shape);
  const std::vector<TensorSpec> tensors = LlamaTensors(config);
  CheckpointWriter writer(directory, tensors);
  uint32_t state = 1;
  std::vector<uint16_t> values;
  for (const TensorSpec& tensor : tensors) {
    int64_t size = 1;
    for (const int64_t extent : tensor.shape) {
      size *= extent;
    }
    values.resize(size);
    for (uint16_t& value : values) {
      state = state * 1664525 + 1013904223;
      const uint32_t sum = (state & 255) + (state >> 8 & 255) + (state >> 16 & 255) + (state >> 24);
      value = FloatToBf16((static_cast<float>(sum) - 510.0f) * (0.02f / 147.8f));
    }
    writer.Append(tensor.name, values.data(), values.size() * sizeof(uint16_t));
  }
  writer.Commit();
  fs::copy_file(shape / "config.json", directory / "config.json");
}

int64_t StatusBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) {
      return std::stoll(line.substr(field.size() + 1)) * 1024;
    }
  }
  return 0;
}

void Load(const fs::path& directory, int num_threads, int64_t checkpoint_bytes) {
  double best = 1e30;
  int64_t model_bytes = 0;
  int64_t peak = 0;
  int64_t largest = 0;
  for (int round = 0; round < 3; ++round) {
    std::ofstream("/proc/self/clear_refs") << 5;  // restarts VmHWM
    const int64_t before = StatusBytes("VmRSS");
    ThreadPool threads(num_threads);
    const auto start = std::chrono::steady_clock::now();
    const Model model = LoadModel(directory, {}, threads);
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    peak = std::max(peak, StatusBytes("VmHWM") - before);
    model_bytes = model.report.weight_bytes;
    largest = model.config.vocab_size * model.config.hidden_size * 2;
  }
  const double speed = static_cast<double>(checkpoint_bytes) / best / 1e9;
  std::printf(
      "%d thread%s: %.2f s, %.2f GB/s of checkpoint, %.2f GB/s a core; "
      "peak memory %.1f MB for a model of %.1f MB: %.3f of model + 5 %% + largest tensor\n",
      num_threads, num_threads == 1 ? "" : "s", best, speed, speed / num_threads,
      static_cast<double>(peak) / 1e6, static_cast<double>(model_bytes) / 1e6,
      static_cast<double>(peak) / (static_cast<double>(model_bytes) * 1.05 + largest));
}

void Run(const fs::path& parent) {
  std::string name = (parent / "dualfp-bench-load-XXXXXX").string();
  Check(mkdtemp(name.data()) != nullptr, ErrorCode::kIo, "cannot create a directory in ",
        parent.string());
  const fs::path directory = name;
  try {
    WriteCheckpoint(directory);
    const auto bytes = static_cast<int64_t>(fs::file_size(directory / "model.safetensors"));
    std::printf("BF16 checkpoint of %.2f GB in the page cache, %s\n",
                static_cast<double>(bytes) / 1e9, CpuDescription().c_str());
    const int cores = ThreadPool().num_threads();
    for (int threads = 1; threads <= cores; threads = threads < cores ? cores : cores + 1) {
      Load(directory, threads, bytes);
    }
  } catch (...) {
    fs::remove_all(directory);
    throw;
  }
  fs::remove_all(directory);
}

}  // namespace
}  // namespace dualfp

int main(int argc, char** argv) {
  CLI::App app("Loading and nesting: speed and peak memory");
  std::string directory = std::filesystem::temp_directory_path();
  app.add_option("--directory", directory)->check(CLI::ExistingDirectory);
  CLI11_PARSE(app, argc, argv);
  try {
    dualfp::Run(directory);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_load: %s\n", error.what());
    return 1;
  }
  return 0;
}
